"""What the pages under ``docs/`` name is there: files, tests, and a test for every fault of the table in ``docs/reliability.md``."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(r"`([\w./-]+\.(?:py|txt|sh))`")
TEST = re.compile(r"`(test_\w+)(\.\.\.)?`")
FAULTS = ROOT / "docs" / "reliability.md"


def named(path):
    return path.relative_to(ROOT).as_posix()


def where(name):
    """A file as a page names it: from the root, or from one of the folders that pages are about."""
    return next(
        (
            folder / name
            for folder in (ROOT, *(ROOT / part for part in ("tests", "pipeline", "docs", "benchmarks")))
            if (folder / name).is_file()
        ),
        None,
    )


@cache
def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def known(name, short, files):
    """Whether a test stands in one of the files; ``short``: only the beginning of its name was given."""
    return any(found.startswith(name) if short else found == name for path in files for found in functions(path))


def faults():
    """Rows of the table of faults: (what happens to a training, the cell that says what proves it)."""
    table = FAULTS.read_text().partition("## Faults")[2].partition("\n\n`")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [(cells[0], cells[-1]) for cells in rows[1:]]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_files_and_tests_that_a_page_names_exist(page):
    text = page.read_text()
    examples = {"workflow/", "RUN/", "results/"}
    missing = [name for name in FILE.findall(text) if "/" in name and not name.startswith(tuple(examples)) and where(name) is None]
    assert missing == []
    everywhere = sorted((ROOT / "tests").rglob("*.py"))
    unknown = [name for name, short in TEST.findall(text) if not known(name, short, everywhere)]
    assert unknown == []


@pytest.mark.parametrize(("fault", "proof"), faults(), ids=lambda text: text[:40])
def test_every_fault_of_the_table_is_proved_by_tests_in_the_files_beside_them(fault, proof):
    files = [where(name) for name in FILE.findall(proof)]
    assert files
    assert None not in files, proof
    tests = TEST.findall(proof)
    assert tests, f"{fault}: names no test"
    assert [name for name, short in tests if not known(name, short, files)] == []


def test_the_table_covers_the_faults_that_a_training_must_survive():
    """The list of what a training must survive; a fault that is taken out of the table is missed here."""
    text = " ".join(fault for fault, _ in faults())
    kills = ("SIGKILL", "SIGTERM", "SIGINT", "training thread hangs", "rank hangs", "starves", "second writer")
    values = ("flipped bit", "disk full", "not finite", "ten such steps", "median + 6 MAD", "cannot be read", "tracking server", "/dev/shm")
    for word in (*kills, *values):
        assert word in text, word


def test_a_name_that_is_not_there_would_be_found(tmp_path):
    here = Path(__file__)
    assert known("test_a_name_that", "...", [here])
    assert not known("test_a_name_that", "", [here])
    assert not known("test_nobody_wrote_this", "...", [here])
    assert where("training/test_rules.py")
    assert where("training/test_rulez.py") is None
