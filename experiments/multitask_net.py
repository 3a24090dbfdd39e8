"""The network of the project's beginnings: three tasks from 512 pooled features, on clips of a single object.

A 7×7 convolution at stride 2, stages, global pooling, and from 512 features `bbox_reg` (4 numbers), `cls_score` (the
class) and `tracking` (2: position and velocity). Losses are smooth-L1, cross entropy and squared error, by default
weighed 0.5, 0.3 and 0.2; the optimizer is Adam at 1e-4.

Clips are pairs of frames from the embedded video with one object in sight; the network sees both. `bbox_reg` is the
object's box in the second frame, `tracking` where its centre will be a frame later, along x, and its velocity along x;
lengths are relative to the picture. All sharing architectures run under the default weights, all weighting schemes
under hard sharing, from the same seeds on the same batches. Nothing is selected: scores are those of other videos after
the last step, and Δm compares with a network for each task.

    python experiments/multitask_net.py --output runs/multitask_net
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Int, UInt8

from mtl_jax import boxes as box_lib
from mtl_jax import weighting
from mtl_jax.data import synthetic
from mtl_jax.evaluation.delta import delta_m
from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.dependence import shared_paths
from mtl_jax.models.layers import ConvNorm, Stem
from mtl_jax.models.network import MultiTaskNetwork, initialize
from mtl_jax.models.sharing import SHARING
from mtl_jax.progress import Progress
from mtl_jax.reporting.tables import Column, print_table, to_markdown

SIDE, CLASSES, FEATURES = 64, 4, 512
OUTPUTS = {"bbox_reg": 4, "cls_score": CLASSES, "tracking": 2}
WEIGHTS = {"bbox_reg": 0.5, "cls_score": 0.3, "tracking": 0.2}
SCORES = {"IoU": True, "accuracy": True, "tracking error": False}
"""One for each task, and whether more is better: percent, percent, pixels."""
SCENE = synthetic.SceneConfig(
    height=SIDE, width=SIDE, num_classes=CLASSES, markings=True, objects=(1, 2), pan=0.5
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "hard": {},
    "soft": {"strength": 1e-3},
    "hierarchical": {"levels": "bbox_reg=2"},
}
# Krum is for four tasks and more.
SCHEMES = tuple(name for name in weighting.names() if name != "krum")


class Clips(NamedTuple):
    """Pairs of frames with one object.

    Attributes:
        before: The first frames.
        frames: The second ones.
        classes: The object's class.
        boxes: Its box in the second frame: centre, width and height, relative to the picture.
        tracking: Where its centre will be in the next frame, and how far it moves until then, along x, relative to the
            picture.
    """

    before: UInt8[Any, "clips 64 64 3"]
    frames: UInt8[Any, "clips 64 64 3"]
    classes: Int[Any, "clips"]
    boxes: Float[Any, "clips 4"]
    tracking: Float[Any, "clips 2"]


def render(number: int, seed: int) -> Clips:
    """Returns clips from as many videos as it takes."""
    found: list[tuple] = []
    with Progress("rendering", number) as progress:
        while len(found) < number:
            video = synthetic.render_video(SCENE, seed, 24)
            seed += 1
            alone = (video.present.sum(axis=1) == 1) & (video.visibility.max(axis=1) > 0.8)
            usable = alone[1:-1] & alone[:-2] & alone[2:]
            # Frames of one video are alike: four of them are enough.
            for t in np.flatnonzero(usable)[::4][:4] + 1:
                row = int(np.argmax(video.present[t]))
                if not video.present[t - 1 : t + 2, row].all():
                    continue
                (x0, y0, x1, y1), after = video.boxes[t, row], video.boxes[t + 1, row]
                center = np.array([x0 + x1, after[0] + after[2]]) / 2
                found.append(
                    (
                        video.frames[t - 1],
                        video.frames[t],
                        video.classes[row],
                        np.array([x0 + x1, y0 + y1, 2 * (x1 - x0), 2 * (y1 - y0)]) / 2 / SIDE,
                        np.array([center[1], center[1] - center[0]]) / SIDE,
                    )
                )
                progress.advance()
    columns = [np.stack(column) for column in zip(*found[:number], strict=True)]
    types = (np.uint8, np.uint8, np.int32, np.float32, np.float32)
    return Clips(*(column.astype(kind) for column, kind in zip(columns, types, strict=True)))


class Stages(Backbone):
    """A 7×7 convolution at stride 2, and stages of two 3×3 convolutions, the first of which halves the map."""

    channels: tuple[int, ...] = (24, 48, 96)

    def setup(self) -> None:
        """Makes the layers."""
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        self.stem = Stem(16, 7, 2, norm=self.norm, dtype=self.dtype)
        self.reduce = [conv(channels, 2, 2) for channels in self.channels]
        self.refine = [conv(channels) for channels in self.channels]

    def entry(
        self, images: Array, previous_images: Array | None, previous_heatmap: Array | None, train: bool
    ) -> Array:
        """Returns features of both frames."""
        return self.stem(self.normalized(images), self.normalized(previous_images), train)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the two convolutions of each stage."""
        return tuple(zip(self.reduce, self.refine, strict=True))


class Pooled(nn.Module):
    """512 features of the whole picture, from the last feature map: the neck."""

    @nn.compact
    def __call__(
        self, levels: tuple[Float[Array, "batch _height _width _channels"], ...], train: bool
    ) -> Float[Array, "batch 1 1 features"]:
        """Returns the features."""
        return nn.relu(nn.Conv(FEATURES, (1, 1), name="features")(levels[-1])).mean((1, 2), keepdims=True)


class LinearHeads(nn.Module):
    """A linear layer for each task.

    Attributes:
        outputs: Numbers that each task predicts.
    """

    outputs: Mapping[str, int]

    @nn.compact
    def __call__(self, features: Mapping[str, Array]) -> dict[str, Array]:
        """Returns each task's numbers."""
        return {
            task: nn.Dense(number, name=task)(features[task][:, 0, 0])
            for task, number in self.outputs.items()
        }


def build(sharing: str) -> MultiTaskNetwork:
    """Returns the network with an architecture of the project; a name is of its trunk, necks and heads are these."""
    return SHARING[sharing](
        tasks=tuple(OUTPUTS),
        make_backbone=functools.partial(Stages, norm="group"),
        make_neck=Pooled,
        heads=LinearHeads(OUTPUTS),
        inputs="pair",
        norm="group",
        **ARCHITECTURES.get(sharing, {}),
    )


def losses_of(network: MultiTaskNetwork) -> weighting.SplitLoss:
    """Returns the losses of the three tasks, as a function of parameters and clips."""

    def trunk(params: Any, clips: Clips) -> Any:
        return network.apply({"params": params}, clips.frames, clips.before, method="trunk", train=True)

    def head(task: str, heads: Any, features: Any, clips: Clips) -> Float[Array, ""]:
        outputs: Any = network.apply({"params": {"heads": heads}}, features, method="predict")
        if task == "bbox_reg":
            return jnp.mean(optax.huber_loss(outputs[task], clips.boxes))
        if task == "cls_score":
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs[task], clips.classes))
        return jnp.mean((outputs[task] - clips.tracking) ** 2)

    return weighting.SplitLoss(trunk, [functools.partial(head, task) for task in OUTPUTS])


def scheme_of(name: str, network: MultiTaskNetwork) -> weighting.Scheme:
    """Returns a weighting scheme for the three tasks; `fixed` has the default weights."""
    options: dict[str, Any] = {}
    if name == "fixed":
        options["weights"] = list(WEIGHTS.values())
    if name == "uncertainty":
        options["kinds"] = ["classification" if task == "cls_score" else "regression" for task in OUTPUTS]
    if name in weighting.AGGREGATIONS:
        options["shared"] = shared_paths(network).__contains__
    return weighting.make_default(name, len(OUTPUTS), **options)


def batches(clips: Clips, seed: int, steps: int, batch: int) -> Iterator[Clips]:
    """Yields batches, drawn anew in each epoch."""
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [rng.permutation(len(clips.classes)) for _ in range(steps * batch // len(clips.classes) + 1)]
    )
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        yield Clips(*(column[rows] for column in clips))


def score(network: MultiTaskNetwork, params: Any, clips: Clips) -> list[float]:
    """Returns `SCORES` on clips."""
    outputs: Any = jax.jit(lambda p, *frames: network.apply({"params": p}, *frames))(
        params, clips.frames, clips.before
    )
    found, truth = (box_lib.from_center_size(x[:, :2], x[:, 2:]) for x in (outputs["bbox_reg"], clips.boxes))
    overlap = box_lib.iou(found, truth)
    right = outputs["cls_score"].argmax(axis=-1) == clips.classes
    errors = jnp.abs(outputs["tracking"] - clips.tracking)
    return [float(100 * overlap.mean()), float(100 * right.mean()), float(SIDE * errors.mean())]


def run(
    sharing: str, name: str, train: Clips, test: Clips, seeds: int, steps: int, batch: int, progress: Progress
) -> list[list[float]]:
    """Returns the scores of an architecture under a scheme, by seed."""
    network = build(sharing)
    loss_fn, optimizer = losses_of(network), optax.adam(1e-4)
    if sharing == "soft":  # the penalty's gradient goes the way of the losses'
        optimizer = optax.chain(_penalized(network), optimizer)
    init, update = weighting.make_step(
        scheme_of(name, network), loss_fn, optimizer, learned_optimizer=optax.adam(1e-2), step_size=1e-4
    )
    step = jax.jit(update)
    found = []
    for seed in range(seeds):
        state = init(initialize(network, jax.random.key(seed))["params"], len(OUTPUTS))
        held_out = batches(train, seed + 1000, steps, batch)
        for clips, others in zip(batches(train, seed, steps, batch), held_out, strict=True):
            state, losses, _ = step(state, clips, held_out=(others,))
            progress.advance()
        found.append(score(network, state.params, test) if jnp.isfinite(losses).all() else [0.0, 0.0, SIDE])
    return found


def _penalized(network: MultiTaskNetwork) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.add, updates, jax.grad(network.penalty)(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def table(results: Mapping[str, list[list[float]]]) -> list[dict]:
    """Returns a row a run: mean and deviation of the scores, and of Δm against single networks, the best first."""
    baseline = np.mean(results["single, fixed"], axis=0)
    rows = []
    for name, scores in results.items():
        row: dict[str, Any] = dict(zip(("sharing", "weighting"), name.split(", "), strict=True))
        for key, values in zip(SCORES, np.transpose(scores), strict=True):
            row |= {key: values.mean(), f"{key} ±": values.std()}
        deltas = delta_m(scores, baseline, tuple(SCORES.values()))
        rows.append(row | {"Δm": deltas.mean(), "Δm ±": deltas.std()})
    return sorted(rows, key=lambda row: row["Δm"])


def main(
    output: Path = Path("runs/multitask_net"),
    schemes: tuple[str, ...] = SCHEMES,
    seeds: int = 3,
    steps: int = 600,
    batch: int = 32,
    clips: int = 2000,
) -> None:
    """Trains the network in every way and leaves a table.

    Args:
        output: Where the clips, the scores of each run and the table go.
        schemes: Weighting schemes for hard sharing.
        seeds: Number of seeds.
        steps: Steps of each run.
        batch: Clips in a batch.
        clips: Clips to train on; a quarter as many are for test.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"clips{clips}.npz"
    if not path.exists():
        parts = {"train": render(clips, 0), "test": render(clips // 4, 10**6)}
        np.savez(path, **{f"{p}_{k}": v for p, c in parts.items() for k, v in c._asdict().items()})
    stored = np.load(path)
    train, test = (
        Clips(*(stored[f"{part}_{field}"] for field in Clips._fields)) for part in ("train", "test")
    )
    runs = [("single", "fixed"), *((sharing, "fixed") for sharing in ARCHITECTURES)]
    runs += [("hard", scheme) for scheme in schemes if scheme != "fixed"]
    results: dict[str, list[list[float]]] = {}
    with Progress("training", len(runs) * seeds * steps) as progress:
        for sharing, scheme in runs:
            done = output / f"{sharing}-{scheme}-{clips}-{steps}-{batch}-{seeds}.json"
            if done.exists():
                progress.advance(seeds * steps)
            else:
                scores = run(sharing, scheme, train, test, seeds, steps, batch, progress)
                done.write_text(json.dumps(scores) + "\n")
            results[f"{sharing}, {scheme}"] = json.loads(done.read_text())
    rows = table(results)
    columns = [Column("sharing", "sharing"), Column("weighting", "weighting")]
    for key in list(rows[0])[2:]:
        best = {True: "max", False: "min", None: None}[SCORES.get(key)]
        columns.append(Column(key, key, ".2f", best="min" if key == "Δm" else best))
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (output / "results.md").write_text(to_markdown(rows, columns) + "\n")
    print_table(rows, columns)


if __name__ == "__main__":
    tyro.cli(main)
