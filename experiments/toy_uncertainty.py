"""Two regressions on one input with noise of standard deviation 10 and 1: does learned uncertainty find them?

At the optimum the learned `sigma_i` is the standard deviation of what the model cannot explain, so the weights are
`1 / (2 sigma_i^2)`.

    python experiments/toy_uncertainty.py --output runs/toy_uncertainty

The problem is that of the example code to Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh
Losses for Scene Geometry and Semantics" (CVPR 2018, arXiv:1705.07115), one hidden layer, but with 1,000 points, not
100: of so few it explains a tenth of the noise away.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from mtl_jax import weighting
from mtl_jax.reporting.tables import Column, print_table

NOISE = (10.0, 1.0)
SLOPES, OFFSETS = (2.0, 3.0), (8.0, 3.0)


def sample(key: Array, points: int) -> tuple[Float[Array, "points 1"], Float[Array, "points 2"]]:
    """Returns inputs and the two noisy targets."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (points, 1))
    noise = jax.random.normal(noise_key, (points, 2)) * jnp.array(NOISE)
    return x, x * jnp.array(SLOPES) + jnp.array(OFFSETS) + noise


def predict(params: dict, x: Float[Array, "points 1"]) -> Float[Array, "points 2"]:
    """Returns the predictions of a network with one hidden layer that both tasks share."""
    hidden = jax.nn.relu(x @ params["hidden"] + params["bias"])
    return hidden @ params["output"] + params["offset"]


def initialize(key: Array, hidden: int) -> dict:
    """Returns the network's parameters."""
    keys = jax.random.split(key)
    return {
        "hidden": jax.random.normal(keys[0], (1, hidden)),
        "bias": jnp.zeros(hidden),
        "output": jax.random.normal(keys[1], (hidden, 2)) / hidden**0.5,
        "offset": jnp.zeros(2),
    }


def train(seed: Array, points: int, steps: int, hidden: int = 32) -> tuple[Array, Array]:
    """Returns the learned standard deviations in each step, and those of the residuals at the end."""
    data_key, key = jax.random.split(jax.random.key(seed))
    x, y = sample(data_key, points)

    def losses(params: dict) -> Float[Array, "2"]:
        return jnp.mean((predict(params, x) - y) ** 2, axis=0)

    scheme = weighting.uncertainty(kinds=("regression", "regression"))
    init, update = weighting.make_step(scheme, losses, optax.adam(1e-2))

    def step(state: weighting.StepState, _: None) -> tuple[weighting.StepState, Array]:
        state, *_ = update(state)
        return state, jnp.exp(state.learned["log_variance"] / 2)

    state, learned = jax.lax.scan(step, init(initialize(key, hidden), 2), length=steps)
    return learned, jnp.std(predict(state.params, x) - y, axis=0)


def main(
    output: Path = Path("runs/toy_uncertainty"), seeds: int = 5, points: int = 1000, steps: int = 10_000
) -> None:
    """Trains under learned uncertainty, all seeds at once, and compares what was learned with the truth.

    Args:
        output: Where the table and the picture go.
        seeds: Number of seeds.
        points: Points of data.
        steps: Steps of training.
    """
    output.mkdir(parents=True, exist_ok=True)
    learned, residual = jax.jit(jax.vmap(lambda seed: train(seed, points, steps)))(jnp.arange(seeds))
    rows = [
        {
            "task": task + 1,
            "noise": NOISE[task],
            "learned": float(learned[:, -1, task].mean()),
            "spread": float(learned[:, -1, task].std()),
            "residual": float(residual[:, task].mean()),
        }
        for task in range(2)
    ]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    panel = figure.subplots()
    for task, color in enumerate(("tab:blue", "tab:orange")):
        panel.plot(np.asarray(learned[:, :, task]).T, color=color, linewidth=1)
        panel.axhline(NOISE[task], color=color, linewidth=1, linestyle="--")
    panel.set(yscale="log", xlabel="step", ylabel="learned standard deviation", title="dashed: the noise")
    panel.set_yticks([1, 2, 5, 10], labels=["1", "2", "5", "10"])
    panel.minorticks_off()
    figure.savefig(output / "sigmas.png", dpi=120)
    print_table(rows, [Column(key, key, "d" if key == "task" else ".2f") for key in rows[0]])


if __name__ == "__main__":
    tyro.cli(main)
