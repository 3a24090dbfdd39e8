"""Tasks: targets, losses as (sum, count), and decoding; one file a task."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
from jaxtyping import Array, Float

from mtl_jax.structures import Batch
from mtl_jax.tasks import box, classification, identity, motion
from mtl_jax.tasks.decode import decode
from mtl_jax.tasks.targets import STRIDE, Targets, make_targets

__all__ = [
    "STRIDE",
    "TASKS",
    "Targets",
    "TaskSpec",
    "batch_targets",
    "decode",
    "make_targets",
]


class TaskSpec(NamedTuple):
    """What the rest of the project needs to know about a task.

    Attributes:
        loss: Takes the head's output, the batch and its targets; returns the loss as (sum, count).
        kind: The likelihood that the loss stands for, which decides the form of learned uncertainty.
    """

    loss: Callable[[Array, Batch, Targets], tuple[Array, Array]]
    kind: Literal["regression", "classification"]


TASKS: dict[str, TaskSpec] = {
    "box": TaskSpec(box.loss, "regression"),
    "classification": TaskSpec(classification.loss, "classification"),
    "motion": TaskSpec(motion.loss, "regression"),
    "identity": TaskSpec(identity.loss, "classification"),
}


def batch_targets(batch: Batch, num_classes: int) -> Targets:
    """Returns the targets of every frame of a batch."""
    height, width = batch.images.shape[2:4]
    shape = (height // STRIDE, width // STRIDE)

    def one_frame(boxes: Float[Array, "objects 4"], classes: Array, mask: Array, ignore: Array) -> Targets:
        return make_targets(boxes, classes, mask, ignore, shape, num_classes)

    return jax.vmap(jax.vmap(one_frame))(batch.boxes, batch.classes, batch.mask, batch.ignore)
