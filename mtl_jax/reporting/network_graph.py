"""A picture of a network: its parts from left to right, coloured by the tasks that they serve."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mtl_jax.models.graph import Graph, Node
from mtl_jax.reporting import colors

_WIDTH, _HEIGHT = 1.6, 0.68  # of a part, in the units of its column and row
_COLUMN, _ROW = 2.3, 1.0


def draw_graph(graph: Graph, tasks: Sequence[str], path: Path, title: str = "") -> None:
    """Writes a picture of a network as PNG, or as the suffix of the path says.

    A part that one task alone reaches has that task's colour; one of several is grey, with a dot for each.

    Args:
        graph: The network.
        tasks: Names of the tasks.
        path: The file.
        title: Heading.
    """
    places = _layout(graph)
    columns = 1 + max(x for x, _ in places)
    rows = 1 + max(y for _, y in places) - min(y for _, y in places)
    palette = {task: colors.LINES[i % len(colors.LINES)] for i, task in enumerate(tasks)}
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(max(1.0 * columns * _COLUMN / 1.6, 5), max(0.62 * rows, 1.6) + 0.7))
        axes = figure.add_axes((0.01, 0.02, 0.98, 0.84))
        for a, b in graph.edges:
            _draw_edge(axes, places[a], places[b])
        for node, place in zip(graph.nodes, places, strict=True):
            _draw_node(axes, node, place, palette)
        axes.set_xlim(-_WIDTH / 2 - 0.1, (columns - 1) * _COLUMN + _WIDTH / 2 + 0.1)
        ys = [y * _ROW for _, y in places]
        axes.set_ylim(max(ys) + 0.6, min(ys) - 0.6)
        axes.axis("off")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        figure.legend(
            handles=[
                Line2D([], [], marker="o", linestyle="", color=color, label=task)
                for task, color in palette.items()
            ],
            loc="upper right",
            ncols=len(palette),
            frameon=False,
            handletextpad=0.1,
        )
        figure.savefig(path, dpi=150)


def _layout(graph: Graph) -> list[tuple[int, float]]:
    """Returns column and row of each part: right of all that feed it, and level with them where there is room."""
    feeding: list[list[int]] = [[a for a, b in graph.edges if b == i] for i in range(len(graph.nodes))]
    columns: list[int] = []
    for before in feeding:
        columns.append(1 + max((columns[a] for a in before), default=-1))
    # What feeds nothing is a head: at the end, where it can be compared.
    fed = {a for a, _ in graph.edges}
    columns = [column if i in fed else max(columns) for i, column in enumerate(columns)]
    rows = [0.0] * len(columns)
    for column in range(max(columns) + 1):
        members = [i for i, c in enumerate(columns) if c == column]
        wanted = {
            i: sum(rows[a] for a in feeding[i]) / len(feeding[i]) if feeding[i] else 0.0 for i in members
        }
        members.sort(key=lambda i: (round(wanted[i], 3), i))
        middle = sum(wanted.values()) / len(members)
        for k, i in enumerate(members):
            rows[i] = middle + k - (len(members) - 1) / 2
    return list(zip(columns, rows, strict=True))


def _draw_edge(axes: Axes, start: tuple[int, float], end: tuple[int, float]) -> None:
    (x0, y0), (x1, y1) = start, end
    # An arrow over other columns makes a bow round what stands there.
    bow = 0.0 if x1 - x0 <= 1 else 0.12 if y0 == y1 else 0.04
    axes.add_patch(
        FancyArrowPatch(
            (x0 * _COLUMN + _WIDTH / 2, y0 * _ROW),
            (x1 * _COLUMN - _WIDTH / 2, y1 * _ROW),
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.7,
            color="0.45",
            connectionstyle=f"arc3,rad={bow}",
            zorder=1,
        )
    )


def _draw_node(axes: Axes, node: Node, place: tuple[int, float], palette: dict[str, str]) -> None:
    x, y = place[0] * _COLUMN, place[1] * _ROW
    alone = palette[node.tasks[0]] if len(node.tasks) == 1 else None
    fill = alone or ("0.9" if node.tasks else "white")
    axes.add_patch(
        FancyBboxPatch(
            (x - _WIDTH / 2, y - _HEIGHT / 2),
            _WIDTH,
            _HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=fill,
            edgecolor="0.3",
            linewidth=0.7,
            zorder=2,
        )
    )
    ink = colors.text_on(alone) if alone else "black"
    module, _, stage = node.name.replace("classification", "class").rpartition(" ")
    lines = (
        [*([module] if module else []), stage, _count(node.parameters)]
        if "head" not in node.name
        else [node.name, _count(node.parameters)]
    )
    for k, line in enumerate(lines):
        height = y + 0.19 * (k - (len(lines) - 1) / 2)
        axes.text(
            x,
            height,
            line.replace("_", " "),
            ha="center",
            va="center",
            color=ink,
            zorder=3,
            fontsize=min(6.5, 130 / max(len(line), 1)),
        )
    if not alone:
        for k, task in enumerate(node.tasks):
            axes.plot(
                x + 0.14 * (k - (len(node.tasks) - 1) / 2),
                y + _HEIGHT / 2,
                marker="o",
                markersize=4,
                color=palette[task],
                zorder=4,
            )


def _count(number: int) -> str:
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
