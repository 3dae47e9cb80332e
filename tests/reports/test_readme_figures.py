"""The README quotes the hippocampus study as it came out: its table and sentences are those of the kept verdict."""

import csv
from pathlib import Path

from pipeline.files import read_json
from pipeline.reports.markdown import verdict_markdown

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "results" / "hippocampus"


def test_the_readme_has_every_line_of_the_verdict():
    readme = (ROOT / "README.md").read_text().splitlines()
    for line in verdict_markdown(read_json(KEPT / "verdict.json")).splitlines():
        assert line in readme, f"README.md: {line!r} of docs/results/hippocampus is missing or was changed"


def test_the_kept_verdict_is_that_of_the_kept_cells():
    """The table's means, computed once more from the cells of scratch and of one pretraining."""
    with (KEPT / "verdict.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    for name in ("scratch", "transvw"):
        cells = read_json(KEPT / f"hippocampus-{name}.json")["cells"]
        for size in ("1", "8"):
            found = [cell for key, cell in cells.items() if key.startswith(f"cells/{size}-")]
            dice = [sum(case) / len(case) for cell in found for case in cell["test"]]
            stated = [row for row in rows if row["initialisation"] == name and row["num_labels"] == size]
            assert len(stated) == 1
            assert abs(float(stated[0]["dice_mean"]) - sum(dice) / len(dice)) < 1e-4
