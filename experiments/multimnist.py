"""Two digits over each other, and two tasks: which is at the top left, which at the bottom right.

Every scheme trains the same network from the same three seeds, on the same batches, and is compared with a network for
each task alone. The pairs are drawn anew in each step from the digits for training; those for test are fixed and of
other digits. Nothing is selected: every scheme has its default hyperparameters, and the test scores are those after the
last step.

    python experiments/multimnist.py --mnist mnist10k.npz --output runs/multimnist

The problem and the network are those of Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS
2018, arXiv:1810.04650), section 5.1; with a tenth of MNIST the scores are lower than theirs. A comparison that was
stopped goes on with the schemes that are missing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Int, UInt8

from mtl_jax import weighting
from mtl_jax.errors import UserError
from mtl_jax.evaluation.delta import delta_m
from mtl_jax.progress import Progress
from mtl_jax.reporting.tables import Column, print_table, to_markdown

TASKS = ("left", "right")
CANVAS, DIGIT = 36, 28
# Krum is for four tasks and more.
SCHEMES = tuple(name for name in weighting.names() if name != "krum")


class Digits(NamedTuple):
    """Single digits.

    Attributes:
        images: Grey levels.
        labels: Which digit.
    """

    images: UInt8[Array, "digits 28 28"]
    labels: Int[Array, "digits"]


class Pairs(NamedTuple):
    """Pictures of two digits.

    Attributes:
        images: 0 to 1.
        labels: The left digit and the right one.
    """

    images: Float[Array, "pairs 36 36 1"]
    labels: Int[Array, "pairs 2"]


def load(path: Path) -> tuple[Digits, Digits]:
    """Returns digits for training and, a random tenth, always the same, for test.

    Raises:
        UserError: If the file is missing or has no images and labels.
    """
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; give an .npz file with MNIST's `images` and `labels`") from error
    if not {"images", "labels"} <= arrays.keys() or arrays["images"].shape[1:] != (DIGIT, DIGIT):
        shapes = {key: array.shape for key, array in arrays.items()}
        raise UserError(f"{path}: found {shapes}; expected `images` [n, 28, 28] and `labels` [n]")
    cut = len(arrays["labels"]) * 9 // 10
    # A file may be sorted by digit.
    order = np.random.default_rng(0).permutation(len(arrays["labels"]))
    images, labels = jnp.asarray(arrays["images"][order]), jnp.asarray(arrays["labels"][order], jnp.int32)
    return Digits(images[:cut], labels[:cut]), Digits(images[cut:], labels[cut:])


def draw(key: Array, digits: Digits, number: int) -> Pairs:
    """Returns pairs of random digits, one over the other, the brighter pixel on top."""
    index = jax.random.randint(key, (2, number), 0, len(digits.labels))
    left, right = (digits.images[i].astype(jnp.float32) / 255 for i in index)
    shift = CANVAS - DIGIT
    images = jnp.maximum(
        jnp.pad(left, ((0, 0), (0, shift), (0, shift))), jnp.pad(right, ((0, 0), (shift, 0), (shift, 0)))
    )
    return Pairs(images[..., None], digits.labels[index].T)


def initialize(key: Array) -> dict[str, Any]:
    """Returns the parameters of LeNet: two convolutions and a dense layer that tasks share, and two heads."""
    keys = iter(jax.random.split(key, 7))

    def layer(*shape: int) -> dict[str, Array]:
        fan_in = np.prod(shape[:-1])
        return {
            "kernel": jax.random.normal(next(keys), shape) * (2 / fan_in) ** 0.5,
            "bias": jnp.zeros(shape[-1]),
        }

    return {
        "trunk": {"conv1": layer(5, 5, 1, 10), "conv2": layer(5, 5, 10, 20), "dense": layer(720, 50)},
        "heads": {task: {"hidden": layer(50, 50), "output": layer(50, 10)} for task in TASKS},
    }


def convolve(layer: dict[str, Array], x: Float[Array, "n h w c"]) -> Float[Array, "n rows columns d"]:
    """Returns a convolution without padding, as one matrix product.

    XLA's own is fast on an accelerator, but on a CPU, inside of a loop, it took eight times as long.
    """
    height, width, channels, outputs = layer["kernel"].shape
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    windows = [x[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)]
    patches = jnp.concatenate(windows, axis=-1).reshape(-1, height * width * channels)
    return (patches @ layer["kernel"].reshape(-1, outputs) + layer["bias"]).reshape(
        len(x), rows, columns, outputs
    )


def pool(x: Float[Array, "n h w c"]) -> Float[Array, "n rows columns c"]:
    """Returns the maximum in each square of 2×2."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def predict(params: dict[str, Any], images: Float[Array, "n 36 36 1"]) -> Float[Array, "2 n 10"]:
    """Returns the logits of both tasks."""
    x = images
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(pool(convolve(params["trunk"][name], x)))

    def dense(layer: dict[str, Array], x: Array) -> Array:
        return x @ layer["kernel"] + layer["bias"]

    features = jax.nn.relu(dense(params["trunk"]["dense"], x.reshape(len(x), -1)))
    heads = [params["heads"][task] for task in TASKS]
    return jnp.stack([dense(head["output"], jax.nn.relu(dense(head["hidden"], features))) for head in heads])


def losses(params: dict[str, Any], pairs: Pairs) -> Float[Array, "2"]:
    """Returns the cross entropy of both tasks."""
    errors = optax.softmax_cross_entropy_with_integer_labels(predict(params, pairs.images), pairs.labels.T)
    return jnp.mean(errors, axis=1)


def accuracies(params: dict[str, Any], pairs: Pairs) -> Float[Array, "2"]:
    """Returns the percentage of digits that are told right, of both tasks."""
    return 100 * jnp.mean(jnp.argmax(predict(params, pairs.images), axis=-1) == pairs.labels.T, axis=1)


def trainer(
    scheme: weighting.Scheme, digits: Digits, steps: int, batch: int
) -> Callable[[int, tuple[bool, bool]], dict[str, Any]]:
    """Returns a function from a seed, and which tasks count, to trained parameters; it is compiled once."""
    init, update = weighting.make_step(
        scheme,
        losses,
        optax.adam(optax.cosine_decay_schedule(1e-3, steps)),
        learned_optimizer=optax.adam(1e-2),
    )

    @jax.jit
    def train(key: Array, mask: Array) -> dict[str, Any]:
        init_key, data_key = jax.random.split(key)

        def one(state: weighting.StepState, step: Array) -> tuple[weighting.StepState, None]:
            pairs, held_out = (
                draw(key, digits, batch) for key in jax.random.split(jax.random.fold_in(data_key, step))
            )
            return update(state, pairs, held_out=(held_out,), mask=mask)[0], None

        return jax.lax.scan(one, init(initialize(init_key), 2), jnp.arange(steps))[0].params

    return lambda seed, mask: train(jax.random.key(seed), jnp.array(mask))


def run(
    name: str, digits: Digits, test: Pairs, seeds: int, steps: int, batch: int, progress: Progress
) -> dict:
    """Returns the scores of a scheme, or of a network for each task, by seed."""
    single = name == "single"
    scheme = weighting.equal() if single else weighting.make_default(name, num_tasks=2)
    masks = [(True, False), (False, True)] if single else [(True, True)]
    train = trainer(scheme, digits, steps, batch)
    scores = []
    for seed in range(seeds):
        found = [accuracies(train(seed, mask), test).tolist() for mask in masks]
        scores.append([found[0][0], found[-1][1]])
        progress.advance()
    return {"scheme": name, "steps": steps, "batch": batch, "accuracies": scores}


def table(results: list[dict]) -> list[dict]:
    """Returns a row a scheme: mean and deviation of the accuracies, and of Δm against single-task training."""
    single = np.mean(next(r for r in results if r["scheme"] == "single")["accuracies"], axis=0)
    rows = []
    for result in results:
        scores = np.array(result["accuracies"])
        row = {"scheme": result["scheme"]}
        for i, task in enumerate(TASKS):
            row |= {task: scores[:, i].mean(), f"{task} ±": scores[:, i].std()}
        deltas = delta_m(scores, single, (True, True))
        rows.append(row | {"Δm": deltas.mean(), "Δm ±": deltas.std()})
    return sorted(rows, key=lambda row: row["Δm"])


def main(
    mnist: Path,
    output: Path = Path("runs/multimnist"),
    schemes: tuple[str, ...] = SCHEMES,
    seeds: int = 3,
    steps: int = 3000,
    batch: int = 256,
) -> None:
    """Trains under every scheme and leaves a table.

    Args:
        mnist: An `.npz` file with `images` and `labels`.
        output: Where the table and the scores of each run go.
        schemes: Schemes to train under.
        seeds: Number of seeds.
        steps: Steps of each run.
        batch: Pairs in a batch.
    """
    digits, others = load(mnist)
    test = draw(jax.random.key(12345), others, 5000)
    output.mkdir(parents=True, exist_ok=True)
    results = []
    names = ["single", *schemes]
    with Progress("training", len(names) * seeds) as progress:
        for name in names:
            path = output / f"{name}.json"
            result = json.loads(path.read_text()) if path.exists() else {}
            same = (result.get("steps"), result.get("batch")) == (steps, batch)
            if same and len(result["accuracies"]) == seeds:
                progress.advance(seeds)
            else:
                result = run(name, digits, test, seeds, steps, batch, progress)
                path.write_text(json.dumps(result) + "\n")
            results.append(result)
    rows = table(results)
    columns = [Column("scheme", "scheme")]
    columns += [
        Column(key, key, ".2f", best="max" if key in TASKS else None) for key in rows[0] if key != "scheme"
    ]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (output / "results.md").write_text(to_markdown(rows, columns) + "\n")
    print_table(rows, columns)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"multimnist: {error}") from error
