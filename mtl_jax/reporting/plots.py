"""Curves of training runs: one panel a quantity, one line a run.

A run is the list of rows of its `metrics.jsonl`, see `mtl_jax.training.metrics`: dictionaries with `step` and numbers
under keys such as `loss/box` or `gradient_cosine/box-motion`; not every row has every key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mtl_jax.reporting import colors

Rows = Sequence[Mapping[str, Any]]


class Plot(NamedTuple):
    """What a figure shows.

    Attributes:
        title: Heading.
        keys: Keys to show; one that ends in `/` stands for all that begin so.
        ylabel: What the panels' vertical axes mean.
        log: Logarithmic where no value is negative and they span more than a factor of five; zeros are left out.
        share: All panels have one vertical range, so that they compare.
        reference: Value at which a thin line is drawn.
    """

    title: str
    keys: tuple[str, ...]
    ylabel: str = ""
    log: bool = False
    share: bool = False
    reference: float | int | None = None


PLOTS = {
    "losses": Plot("Losses", ("loss/",), "loss", log=True),
    "weights": Plot("Effective weight of each task", ("weight/",), "weight", log=True, share=True),
    "gradient_norms": Plot(
        "Gradient norm of each task, before weighting", ("gradient_norm/",), "norm", log=True, share=True
    ),
    "gradient_cosines": Plot(
        "Cosine between the gradients of two tasks", ("gradient_cosine/",), "cosine", share=True, reference=0
    ),
    "norms": Plot("Norms and learning rate", ("norm/", "learning_rate"), log=True),
    "validation": Plot("Validation", ("validation/",)),
}
"""The figures of a report, by file name."""


def write_plots(runs: Mapping[str, Rows], folder: Path | str) -> dict[str, Path]:
    """Writes as PNG every figure of `PLOTS` for which there is something to show.

    Args:
        runs: Rows of each run, by name.
        folder: Where to write `losses.png` and so on.

    Returns:
        The files, by name of the figure.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, plot in PLOTS.items():
        figure = draw(plot, runs)
        if figure is not None:
            written[name] = folder / f"{name}.png"
            figure.savefig(written[name], dpi=150, bbox_inches="tight")
    return written


def draw(plot: Plot, runs: Mapping[str, Rows]) -> Figure | None:
    """Returns the figure, or None where no run has any of its keys."""
    keys = _expand(plot.keys, runs)
    if not keys:
        return None
    columns = 2 if len(keys) == 4 else min(len(keys), 3)
    lines = -(-len(keys) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.4 * lines + 0.8), layout="constrained")
        places = figure.subplots(lines, columns, sharey=plot.share, squeeze=False).ravel()
        for spare in places[len(keys) :]:
            spare.remove()
        panels = list(places[: len(keys)])
        for index, (panel, key) in enumerate(zip(panels, keys, strict=True)):
            _draw_panel(panel, key, runs, plot.reference)
            if index + columns >= len(keys):
                panel.set_xlabel("step")
            if index % columns == 0:
                panel.set_ylabel(plot.ylabel)
        if plot.log:
            _set_log_scale(panels, together=plot.share)
        figure.suptitle(plot.title)
        if len(runs) > 1:
            handles = [Line2D([], [], **_line(index), label=name) for index, name in enumerate(runs)]
            figure.legend(
                handles=handles, loc="outside lower center", ncols=min(len(runs), 4), handlelength=3
            )
    return figure


_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


_EXACT = ("weight/", "learning_rate", "norm/parameters")
"""What is drawn as it is; everything else is noisy, and smoothed where there are points enough."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)))


def _line(run: int) -> dict[str, Any]:
    """Returns how the lines of a run look; dashes let a line beneath be seen and do without colour."""
    color = colors.LINES[run % len(colors.LINES)]
    return {"color": color, "linestyle": _DASHES[run % len(_DASHES)], "linewidth": 1.6}


def _expand(keys: Sequence[str], runs: Mapping[str, Rows]) -> list[str]:
    """Returns the keys there are, in the order in which the rows bring them."""
    found = {key: None for rows in runs.values() for row in rows for key in row}
    return [
        key
        for wanted in keys
        for key in found
        if key == wanted or (wanted[-1] == "/" and key.startswith(wanted))
    ]


def _draw_panel(panel: Axes, key: str, runs: Mapping[str, Rows], reference: float | int | None) -> None:
    for index, (name, rows) in enumerate(runs.items()):
        steps, values = series(rows, key)
        if len(steps) == 0:
            continue
        line = _line(index) | {"label": name}
        if len(steps) < 20:
            panel.plot(steps, values, marker="o", markersize=3, **line)
        elif key.startswith(_EXACT):
            panel.plot(steps, values, **line)
        else:
            panel.plot(steps, values, color=line["color"], alpha=0.22, linewidth=0.7)
            panel.plot(steps, smooth(steps, values), **line)
    if reference is not None:
        panel.axhline(reference, color="0.4", linewidth=0.8, zorder=0)
    panel.set_title(key.split("/", 1)[-1].replace("_", " ").replace("-", " · "))


def series(rows: Rows, key: str) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Returns steps and values of a key, in order of steps.

    Where a step stands twice, as after a run was resumed, the later row counts. Values that are not finite
    are left out.
    """
    values = {row["step"]: row[key] for row in rows if row.get(key) is not None}
    points = np.array(sorted(values.items()), float).reshape(-1, 2)
    points = points[np.isfinite(points[:, 1])]
    return points[:, 0], points[:, 1]


def smooth(
    steps: Float[np.ndarray, "points"], values: Float[np.ndarray, "points"]
) -> Float[np.ndarray, "points"]:
    """Returns the mean under a Gaussian window, whose standard deviation is a fortieth of the curve.

    Unlike an exponential mean it has no delay; towards the ends the window is cut off and renormalised. Points need not
    be at equal distances.
    """
    if len(steps) < 2:
        return values
    cells = 1000  # of a thousandth of the curve each
    cell = np.round((steps - steps[0]) / (steps[-1] - steps[0]) * (cells - 1)).astype(int)
    width = cells * max(1 / 40, 1 / len(values))
    window = np.exp(-0.5 * (np.arange(1 - cells, cells) / width) ** 2)
    share = np.gradient(steps)  # what a point stands for: less where points are close together
    totals, counts = (
        np.convolve(np.bincount(cell, weights, cells), window)[cells - 1 :][cell]
        for weights in (share * values, share)
    )
    return totals / counts


def _set_log_scale(panels: Sequence[Axes], together: bool) -> None:
    groups = [panels] if together else [[panel] for panel in panels]
    for group in groups:
        lines = [np.asarray(line.get_ydata()) for panel in group for line in panel.lines]
        values = np.concatenate([np.ones(0), *lines])
        positive = values[values > 0]
        if len(positive) == 0 or values.min() < 0 or positive.max() < 5 * positive.min():
            continue
        decades = np.log10(positive.max() / positive.min())
        for panel in group:
            panel.set_yscale("log", nonpositive="mask")
            # Matplotlib labels few or no ticks on less than two decades, so say which.
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
