"""One trunk a task, side by side: single-task networks, and what soft sharing mixes or ties."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.models.network import Frames, MultiTaskNetwork


class Parallel(MultiTaskNetwork):
    """A backbone and a neck for each task, which have nothing in common: the single-task baselines, in one program.

    They train as they would alone, but that gradients are clipped by the norm of all.

    Written out task by task: vmapped over the tasks, trunks take many times as long on a CPU, since their convolutions
    become grouped ones (`mtl-jax benchmark sharing` tells both times).
    """

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map."""
        backbones = {task: self.make_backbone(name=f"backbone_{task}") for task in self.tasks}
        x = {task: backbone.entry(*frames, train) for task, backbone in backbones.items()}
        outputs: dict[str, list[Array]] = {task: [] for task in self.tasks}
        for stage in range(next(iter(backbones.values())).num_stages):
            x = {task: backbone.stage(stage, x[task], train) for task, backbone in backbones.items()}
            x = self.mix(stage, x, train)
            for task in self.tasks:
                outputs[task].append(x[task])
        return {
            task: self.make_neck(name=f"neck_{task}")(
                self.weigh(task, backbone.pyramid(outputs[task], train)), train
            )
            for task, backbone in backbones.items()
        }

    def mix(
        self, stage: int, x: dict[str, Float[Array, "batch rows columns channels"]], train: bool
    ) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map after a stage; here its own."""
        return x

    def weigh(self, task: str, levels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Returns the feature maps that a task's neck sees; here those of its backbone."""
        return levels

    @nn.nowrap
    def trunks(self, params: dict[str, Any]) -> list[Any]:
        """Returns the backbones' parameters, one tree a task."""
        return [params[f"backbone_{task}"] for task in self.tasks]
