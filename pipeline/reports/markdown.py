"""The verdict as Markdown, for a README: one table a task, the sentences below it."""

from __future__ import annotations

from typing import Any

NEVER = "none"


def verdict_markdown(verdict: dict[str, Any]) -> str:
    """From what ``verdict.json`` holds. Cells are mean test Dice; `difference` is the planned figure against scratch."""
    parts = []
    for task, value in verdict["tasks"].items():
        items = value["initialisations"]
        sizes = sorted({point["num_labels"] for item in items.values() for point in item["curve"]})
        head = ["initialisation", *map(str, sizes), "difference", "95 % interval", "p (Holm)", "won / tied / lost", "labels saved"]
        rows = [_row(name, item, sizes) for name, item in items.items()]
        parts.append("\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]))
        parts.append(
            f"{task}: {value['num_test_subjects']} test subjects; columns are numbers of labelled subjects, of {value['num_labelled']}; "
            f"{value['num_validation_labels']} labelled validation subjects stand beside every size."
        )
    parts.append("\n".join(f"- {sentence}" for sentence in [*verdict["stamps"], *verdict["sentences"]]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(name: str, item: dict[str, Any], sizes: list[int]) -> list[str]:
    curve = {point["num_labels"]: point for point in item["curve"]}
    cells = [f"{curve[size]['dice_mean']:.3f}" if size in curve else "" for size in sizes]
    primary = item["primary"]
    if primary is None or "diff_mean" not in primary:
        return [name, *cells, "", "", "", "", ""]
    against = [
        f"{primary['diff_mean']:+.3f}",
        f"{primary['ci_low']:+.3f} to {primary['ci_high']:+.3f}",
        f"{primary['p_holm']:.3g}" if item["planned"] else "exploratory",
        f"{primary['wins']} / {primary['ties']} / {primary['losses']}",
    ]
    return [name, *cells, *against, _saved(item["labels_saved"])]


def _saved(saved: dict[str, Any] | None) -> str:
    if saved is None:
        return ""
    low, high = (NEVER if saved[end] is None else f"{saved[end]:.0%}" for end in ("low", "high"))
    return f"{NEVER if saved['value'] is None else format(saved['value'], '.0%')} ({low} to {high})"
