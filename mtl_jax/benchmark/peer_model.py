"""The fixed network and losses on which training steps are compared with those of another framework.

ResNet-50 with batch norm, a feature pyramid of 128 channels to stride 4, four heads of a 3×3 convolution with 128
channels and a 1×1 convolution, AdamW, and losses that look at every cell. `peer_torch` has the same in PyTorch.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from mtl_jax import weighting
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.heads import Heads
from mtl_jax.models.necks.fpn import FPN
from mtl_jax.models.network import STRIDE, MultiTaskNetwork
from mtl_jax.models.sharing.hard import Hard
from mtl_jax.weighting.gradients import Mode as Way
from mtl_jax.weighting.gradients import split_heads

Mode = Literal["sum", "exact", "representation"]
MODES: tuple[Mode, ...] = ("sum", "representation", "exact")
"""How the tasks' gradients become one: that of the losses' sum; combined at the shared features, or at the shared
parameters. In the order of the memory that they need."""

OUTPUTS: Mapping[str, int] = {"classification": 80, "box": 4, "motion": 2, "identity": 64}
"""Output channels of each task."""

CHANNELS = 128
"""Channels of the pyramid, and of the hidden layer of each head."""

SCHEME = "imtl_g"
"""The combination of gradients: a closed form of their Gramian, so that it is alike wherever it is written."""

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4


class DenseBatch(NamedTuple):
    """Images, and what each task is to predict in every cell.

    Attributes:
        images: RGB pixels.
        targets: Of each task: probabilities for classification, numbers for the others.
    """

    images: UInt8[Array, "batch height width 3"]
    targets: dict[str, Float[Array, "batch rows columns _"]]


class PeerState(NamedTuple):
    """All that a run of the fixed network learns.

    Attributes:
        params: Parameters of the network.
        batch_stats: Running statistics of batch norm.
        optimizer: State of AdamW.
        scheme: State of the combination of gradients; empty for the sum.
    """

    params: dict[str, Any]
    batch_stats: Any
    optimizer: Any
    scheme: Any


def build_network(backbone: str = "resnet50", dtype: str = "bfloat16") -> MultiTaskNetwork:
    """Returns the network.

    Args:
        backbone: Another backbone than the comparison's, for tests.
        dtype: Type of the activations; parameters are float32.

    Example:
        >>> variables = initialize(build_network(), jax.random.key(0))
    """
    return Hard(
        tasks=tuple(OUTPUTS),
        make_backbone=functools.partial(build_backbone, backbone, "batch", dtype),
        make_neck=functools.partial(FPN, CHANNELS, "batch", dtype),
        heads=Heads(OUTPUTS, CHANNELS, dtype),
        inputs="frame",
        channels=CHANNELS,
        dtype=dtype,
    )


def random_batch(batch: int, image_size: tuple[int, int], seed: int = 0) -> DenseBatch:
    """Returns noise to learn from, with NumPy arrays.

    Args:
        batch: Images.
        image_size: Height and width.
        seed: Seed of all.
    """
    rng = np.random.default_rng(seed)
    cells = (batch, image_size[0] // STRIDE, image_size[1] // STRIDE)
    targets: Any = {task: rng.random((*cells, size), dtype=np.float32) for task, size in OUTPUTS.items()}
    return DenseBatch(rng.integers(0, 256, (batch, *image_size, 3), dtype=np.uint8), targets)


def loss(
    task: str,
    prediction: Float[Array, "batch rows columns channels"],
    target: Float[Array, "batch rows columns channels"],
) -> Float[Array, ""]:
    """Returns a task's mean over all cells and channels: cross-entropy for classification, else absolute difference."""
    if task == "classification":
        return jnp.mean(optax.sigmoid_binary_cross_entropy(prediction, target))
    return jnp.mean(jnp.abs(prediction - target))


def split_loss(network: MultiTaskNetwork, batch_stats: Any) -> weighting.SplitLoss:
    """Returns the losses in two parts, functions of parameters and batch; the trunk's aux are the new statistics."""

    def trunk(params: Any, batch: DenseBatch) -> tuple[Array, Any]:
        features, updated = network.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.images,
            train=True,
            mutable=["batch_stats"],
            method="trunk",
        )
        return features, updated["batch_stats"]

    def head(task: str, params: Any, features: Array, batch: DenseBatch) -> Float[Array, ""]:
        outputs: Any = network.apply({"params": {"heads": params}}, features, method="predict")
        return loss(task, outputs[task], batch.targets[task])

    return weighting.SplitLoss(trunk, [functools.partial(head, task) for task in network.tasks])


def make_step(
    network: MultiTaskNetwork, mode: Mode, scheme: str = SCHEME, way: Way = "vmap"
) -> tuple[Callable[[Any], PeerState], Callable[[PeerState, DenseBatch], tuple[PeerState, Array]]]:
    """Returns `init(variables) -> state` and `step(state, batch) -> (state, losses)`.

    Args:
        network: The network.
        mode: How the tasks' gradients become one; see `MODES`.
        scheme: Name of the aggregation, where there are gradients to combine.
        way: How the tasks' backward passes run in mode `exact`; `per_task_value_and_grad` tells.

    Example:
        >>> init, step = make_step(network, "exact")
        >>> state, losses = jax.jit(step)(init(initialize(network, jax.random.key(0))), batch)
    """
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    value_and_grad, aggregation = gradient(network, mode, scheme, way)

    def init(variables: Any) -> PeerState:
        params = variables["params"]
        tree = (
            params
            if mode != "representation"
            else {"representation": jnp.zeros(()), "heads": params["heads"]}
        )
        carried = () if aggregation is None else aggregation.init(tree)
        return PeerState(params, variables["batch_stats"], optimizer.init(params), carried)

    def step(state: PeerState, batch: DenseBatch) -> tuple[PeerState, Array]:
        losses, batch_stats, grads, carried = value_and_grad(state, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return PeerState(params, batch_stats, optimizer_state, carried), losses

    return init, step


def gradient(
    network: MultiTaskNetwork, mode: Mode, scheme: str = SCHEME, way: Way = "vmap"
) -> tuple[Callable[[PeerState, DenseBatch], tuple[Array, Any, Any, Any]], Any]:
    """Returns `value_and_grad(state, batch) -> (losses, batch_stats, gradient, aggregation's state)`, and that."""
    if mode == "sum":

        def of_sum(state: PeerState, batch: DenseBatch) -> tuple[Array, Any, Any, Any]:
            def total(params: Any) -> tuple[Array, tuple[Array, Any]]:
                trunk, heads = split_heads(params)
                loss_fn = split_loss(network, state.batch_stats)
                features, batch_stats = loss_fn.trunk_fn(trunk, batch)
                losses = jnp.stack([head(heads, features, batch) for head in loss_fn.heads_fn])
                return jnp.sum(losses), (losses, batch_stats)

            grads, (losses, batch_stats) = jax.grad(total, has_aux=True)(state.params)
            return losses, batch_stats, grads, ()

        return of_sum, None

    at_features = mode == "representation"
    shared = weighting.is_representation if at_features else _is_trunk
    aggregation = weighting.make_default(scheme, len(network.tasks), shared=shared)

    def at_representation(state: PeerState, batch: DenseBatch) -> tuple[Array, Any, Any, Any]:
        value_and_grad = weighting.representation_value_and_grad(
            *split_loss(network, state.batch_stats), has_aux=True
        )
        (losses, batch_stats), grads, backward = value_and_grad(*split_heads(state.params), batch)
        combined, carried = aggregation.update(grads, state.scheme, losses=losses)
        trunk_grads, head_grads = backward(combined)
        return losses, batch_stats, trunk_grads | {"heads": head_grads}, carried

    def exact(state: PeerState, batch: DenseBatch) -> tuple[Array, Any, Any, Any]:
        value_and_grad = weighting.aggregated_value_and_grad(
            split_loss(network, state.batch_stats), aggregation, mode=way, has_aux=True
        )
        (losses, batch_stats), grads, carried = value_and_grad(state.params, state.scheme, batch)
        return losses, batch_stats, grads, carried

    return (at_representation if at_features else exact), aggregation


def _is_trunk(path: str) -> bool:
    return not path.startswith("heads")
