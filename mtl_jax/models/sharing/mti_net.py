"""MTI-Net: distillation between tasks at each scale of the backbone, from the coarsest to the finest."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mtl_jax.models.layers import Conv
from mtl_jax.models.necks.fpn import upsample
from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.early import Early, Stages


class MtiNet(Early):
    """Multi-scale task interaction network.

    At each scale every task has features of its own, made from those of the backbone and, but at the coarsest, from all
    tasks' features at the scale below (feature propagation); it predicts early from them, and takes from the others'
    what helps (distillation, as in PAD-Net). Its features in the end are those of all scales (feature aggregation). The
    paper's propagation attends to tasks and channels; here it is a convolution over all of them. Early predictions are
    enlarged to stride 4, where the losses are. Not used: the neck.

    Reference: Vandenhende et al., "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning", ECCV 2020
    (arXiv:2001.06902).
    """

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Stages:
        """Returns each task's features and its early predictions."""
        levels = self.make_backbone(name="backbone")(*frames, train)
        scales: list[dict[str, Array]] = []
        early: dict[str, list[Array]] = {task: [] for task in self.tasks}
        below: dict[str, Array] = {}
        for level in reversed(range(len(levels))):
            x = Conv(self.channels, (1, 1), dtype=self.dtype, name=f"lateral{level}")(levels[level])
            shared = [upsample(y) for y in below.values()]
            initial = {}
            for task in self.tasks:
                seen = jnp.concatenate([x, *shared], axis=-1)
                initial[task] = self.conv(f"initial{level}_{task}", seen, train)
                prediction = self.predict_early(f"early{level}_{task}", task, initial[task])
                early[task].append(_enlarge(prediction, level))
            below = initial
            scales.append(self.distil(f"distil{level}", initial))
        features = {
            task: self.conv(
                f"aggregate_{task}",
                jnp.concatenate(
                    [_enlarge(y[task], level) for level, y in enumerate(reversed(scales))], axis=-1
                ),
                train,
            )
            for task in self.tasks
        }
        return Stages(features, {task: tuple(predictions) for task, predictions in early.items()})


def _enlarge(x: Array, times: int) -> Array:
    """Returns a feature map with each value repeated, so often doubled in height and width."""
    for _ in range(times):
        x = upsample(x)
    return x
