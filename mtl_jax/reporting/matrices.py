"""A picture of square matrices side by side, such as the cosines between tasks in each part of a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def draw_matrices(
    matrices: Mapping[str, Float[np.ndarray, "n n"]],
    labels: Sequence[str],
    path: Path,
    title: str = "",
    format: str = ".2f",
    limit: float | None = None,
) -> None:
    """Writes matrices as coloured squares with their numbers: red below zero, blue above it.

    Args:
        matrices: By heading.
        labels: Of rows and columns.
        path: The file.
        title: Heading of all.
        format: Format of the numbers.
        limit: Number of the fullest colour, for all; each matrix has its own, if not given.
    """
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    side = 0.55 * len(labels) + 1.1
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 9, "figure.titlesize": 10}):
        figure = Figure(figsize=(columns * side + 0.4, rows * side + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat[len(matrices) :]:
            panel.axis("off")
        for panel, (heading, matrix) in zip(panels.flat, matrices.items(), strict=False):
            most = limit or max(float(np.abs(matrix).max()), 1e-12)
            panel.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most)
            for (i, j), value in np.ndenumerate(matrix):
                ink = "white" if abs(value) > 0.7 * most else "black"
                panel.text(j, i, f"{value:{format}}", ha="center", va="center", color=ink, fontsize=7)
            panel.set_title(heading)
            panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
            panel.set_yticks(range(len(labels)), labels)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        figure.suptitle(title)
        figure.savefig(path, dpi=150)
