"""Two objectives in the plane, with a valley, a ridge and badly scaled gradients: where does each scheme end?

All schemes descend from all starts at once, in one compiled program. The Pareto set is the stretch of about
`x1` in [-7, 7] at `x2` = -8.36; a good scheme reaches it from every start. The first objective is scaled by 0.1.

    python experiments/toy_two_objectives.py --output runs/toy_two_objectives

The problem is that of Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning" (NeurIPS 2021,
arXiv:2110.14048), in the form and with the starts of Navon et al., "Multi-Task Learning as a Bargaining Game" (ICML
2022, arXiv:2202.01017): Adam at 1e-3, 35,000 steps. A constant is added to each objective, which moves no gradient, so
that none is below zero and schemes that take logarithms can take part; how they do depends on it.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtl_jax import weighting
from mtl_jax.progress import Progress
from mtl_jax.reporting.tables import Column, print_table, to_markdown

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALE = 0.1  # of the first objective
FLOOR = 21.0  # no objective is as low as minus this
PARETO_X1, PARETO_X2 = 7.0, -8.36

# Krum is for four tasks and more.
SCHEMES = [name for name in weighting.names() if name != "krum"]


def objectives(x: Float[Array, "2"]) -> Float[Array, "2"]:
    """Returns the two objectives at a point, none below zero."""
    x1, x2 = x
    above, below = (jnp.maximum(jnp.tanh(sign * x2 / 2), 0) for sign in (1, -1))
    ridges = (-(x1 + 7) / 2 + jnp.tanh(x2), (3 - x1) / 2 - jnp.tanh(x2) + 2)
    valleys = jnp.stack([jnp.log(jnp.maximum(jnp.abs(ridge), 5e-6)) + 6 for ridge in ridges])
    bowls = jnp.stack([((x1 - center) ** 2 + 0.1 * (x2 + 8) ** 2) / 10 - 20 for center in (7, -7)])
    return (valleys * above + bowls * below + FLOOR) * jnp.array([SCALE, 1.0])


def descend(names: list[str], steps: int, keep: int) -> dict[str, Float[np.ndarray, "starts points 2"]]:
    """Returns the path of each scheme from each start, as `keep` points and the start."""
    makers = {
        name: weighting.make_step(weighting.make_default(name, 2), objectives, optax.adam(1e-3))
        for name in names
    }
    starts = jnp.array(STARTS)
    states = {name: jax.vmap(lambda x, m=m: m.init(x, 2))(starts) for name, m in makers.items()}

    @jax.jit
    def stretch(states: dict) -> dict:
        def one(states: dict, _: None) -> tuple[dict, None]:
            return {
                name: jax.vmap(lambda s, m=m: m.update(s)[0])(states[name]) for name, m in makers.items()
            }, None

        return jax.lax.scan(one, states, length=steps // keep)[0]

    paths = {name: [np.asarray(starts)] for name in names}
    with Progress("descending", keep) as progress:
        for _ in range(keep):
            states = stretch(states)
            for name, state in states.items():
                paths[name].append(np.asarray(state.params))
            progress.advance()
    return {name: np.stack(points, axis=1) for name, points in paths.items()}


def distance(x: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    """Returns how far points are from the Pareto set."""
    beyond = np.maximum(np.abs(x[..., 0]) - PARETO_X1, 0)
    return np.hypot(beyond, x[..., 1] - PARETO_X2)


def draw(paths: dict[str, np.ndarray], path: Path) -> None:
    """Draws the paths in the plane of the two objectives, a panel a scheme."""
    columns = 7
    rows = math.ceil(len(paths) / columns)
    figure = Figure(figsize=(2.1 * columns, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    front = np.stack([np.linspace(-PARETO_X1, PARETO_X1, 200), np.full(200, PARETO_X2)], axis=1)
    losses = jax.jit(jax.vmap(objectives))
    front = np.asarray(losses(jnp.asarray(front, jnp.float32)))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(STARTS)))
    for panel, (name, starts) in zip(panels, paths.items(), strict=False):
        _panel(panel, name, front, [np.asarray(losses(jnp.asarray(points))) for points in starts], colors)
    for panel in list(panels)[len(paths) :]:
        panel.set_visible(False)
    figure.supxlabel(f"objective 1, times {SCALE}, plus {FLOOR * SCALE:.1f}")
    figure.supylabel(f"objective 2, plus {FLOOR:.0f}")
    figure.savefig(path, dpi=110)


def _panel(
    panel: Axes, name: str, front: np.ndarray, trajectories: list[np.ndarray], colors: np.ndarray
) -> None:
    panel.set_title(name, fontsize=8)
    panel.plot(*front.T, color="0.6", linewidth=4, solid_capstyle="round", zorder=1)
    for trajectory, color in zip(trajectories, colors, strict=True):
        panel.plot(*trajectory.T, color=color, linewidth=0.9, zorder=2)
        panel.plot(*trajectory[0], ".", color=color, markersize=4, zorder=3)
        panel.plot(*trajectory[-1], "*", color="black", markersize=5, zorder=4)
    panel.tick_params(labelsize=6)


def main(
    output: Path = Path("runs/toy_two_objectives"), steps: int = 35_000, schemes: tuple[str, ...] = ()
) -> None:
    """Descends under every scheme, and leaves a table and a picture.

    Args:
        output: Where they go: `results.json`, `results.md`, `trajectories.png`.
        steps: Steps of Adam from each start.
        schemes: Some schemes only.
    """
    output.mkdir(parents=True, exist_ok=True)
    paths = descend(list(schemes or SCHEMES), steps, keep=min(steps, 175))
    rows = []
    for name, points in paths.items():
        ends = points[:, -1]
        reached = distance(ends) < 0.2
        row = {"scheme": name, "reached": int(reached.sum()), "worst distance": float(distance(ends).max())}
        rows.append(row | {f"x1 from {start}": float(x) for start, x in zip(STARTS, ends[:, 0], strict=True)})
    rows.sort(key=lambda row: (-row["reached"], row["worst distance"]))
    columns = [Column("scheme", "scheme"), Column("reached", f"of {len(STARTS)} starts", "d")]
    columns += [Column(key, key, ".2f") for key in rows[0] if key not in ("scheme", "reached")]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (output / "results.md").write_text(to_markdown(rows, columns) + "\n")
    draw(paths, output / "trajectories.png")
    print_table(rows, columns)


if __name__ == "__main__":
    tyro.cli(main)
