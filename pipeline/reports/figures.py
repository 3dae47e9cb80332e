"""Figures as inline SVG that follow the page's colours: text and axes take ``currentColor``, so one file serves light and dark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

INK = "#123457"  # stands for the page's text colour until the SVG is written
# Okabe and Ito's palette: told apart by colour-blind readers, legible on white and on near-black.
COLOURS = ("#7f7f7f", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a07be0")
MARKERS = "osD^vPX*"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """(figure, axes) without a display, with our style."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "vesalius", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlecolor": INK,
        "axes.grid": True, "grid.alpha": 0.18, "grid.color": INK, "legend.frameon": False, "figure.constrained_layout.use": True,
    }  # fmt: skip
    plt.rcParams.update(style)
    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return figure, axes[0]


def svg_of(figure: Any) -> str:
    """The figure as an ``<svg>`` element for a page; the figure is closed."""
    import matplotlib.pyplot as plt

    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = target.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def dice_curve(points: Sequence[dict[str, Any]], task: str) -> Any:
    """Mean Dice over the number of labels, a line for each initialisation, with 95 % intervals."""
    figure, (axis,) = new_figure(8.2, 4.4)
    names = sorted(dict.fromkeys(point["initialisation"] for point in points), key=lambda name: name != "scratch")
    sizes = sorted({point["num_labels"] for point in points})
    for number, name in enumerate(names):
        own = sorted((p for p in points if p["initialisation"] == name), key=lambda p: p["num_labels"])
        shift = 2 ** (0.05 * (number - (len(names) - 1) / 2))
        x = [p["num_labels"] * shift for p in own]
        y = [p["dice"] for p in own]
        error = [[p["dice"] - p["low"] for p in own], [p["high"] - p["dice"] for p in own]]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axis.errorbar(x, y, yerr=error, label=name, linewidth=2.2 if name == "scratch" else 1.4, markersize=5, capsize=2, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    axis.set_xlabel("labelled training subjects")
    axis.set_ylabel("Dice on test subjects (mean, 95 % interval)")
    axis.set_title(task, loc="left")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def loss_curves(series: dict[str, dict[str, tuple[list[int], list[float]]]], wanted: Sequence[str]) -> Any:
    """One panel for each wanted metric, a line for each run that has it."""
    recipes = list(dict.fromkeys(run.rsplit("-", 1)[0].rsplit("-s", 1)[0] for run in series))
    figure, axes = new_figure(max(4.2, 3.4 * len(wanted)) + 1.4, 3.0, max(1, len(wanted)))
    for axis, metric in zip(axes, wanted, strict=False):
        for run, metrics in series.items():
            if metric in metrics:
                few = len(metrics[metric][0]) < 12
                label = run.rsplit("-", 1)[0]
                axis.plot(*metrics[metric], label=label, linewidth=1.4, marker="o" if few else None, markersize=4, **_style(label, recipes))
        axis.set_title(metric, loc="left", fontsize=10)
        axis.set_xlabel("step")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    return figure


def _style(label: str, recipes: list[str]) -> dict[str, Any]:
    """A colour for each recipe, a dash pattern for each seed."""
    recipe, seed = label.rsplit("-s", 1)
    return {"color": COLOURS[(recipes.index(recipe) + 1) % len(COLOURS)], "linestyle": ("-", "--", ":", "-.")[int(seed) % 4]}
