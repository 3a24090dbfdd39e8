"""What mixtures of experts have in common: experts that follow shared stages, and mixtures of what they find."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.errors import UserError
from mtl_jax.models.network import Frames, MultiTaskNetwork


class Experts(MultiTaskNetwork):
    """Some stages for all, then experts, each with its own copy of what follows.

    An expert is a neck, so a light thing; with `shared_stages` below the backbone's it also has its own copy of the
    stages that come after those, and with 0 it is a whole encoder but for the entry.

    Attributes:
        shared_stages: Stages below the experts; -1: all.
    """

    shared_stages: int = -1

    def shared(self, frames: Frames, train: bool) -> list[Float[Array, "batch _rows _columns _channels"]]:
        """Returns the feature maps of the entry and of the stages that all share."""
        backbone = self.make_backbone(name="backbone")
        stages = backbone.num_stages
        if not -1 <= self.shared_stages <= stages:
            raise UserError(
                f"model.sharing.shared_stages: found {self.shared_stages}, but the backbone has {stages} stages"
            )
        outputs = [backbone.entry(*frames, train)]
        for stage in range(stages if self.shared_stages < 0 else self.shared_stages):
            outputs.append(backbone.stage(stage, outputs[-1], train))
        return outputs

    def expert(
        self, name: str, outputs: list[Float[Array, "batch _rows _columns _channels"]], train: bool
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns what the expert of this name finds."""
        backbone = self.make_backbone(name=f"backbone_{name}")
        outputs = list(outputs)
        for stage in range(len(outputs) - 1, backbone.num_stages):
            outputs.append(backbone.stage(stage, outputs[-1], train))
        return self.make_neck(name=f"neck_{name}")(backbone.pyramid(outputs[1:], train), train)

    def gate(
        self, name: str, x: Float[Array, "batch rows columns channels"], number: int
    ) -> Float[Array, "batch number"]:
        """Returns how much each expert counts, image by image: a softmax over a linear function of the mean features.

        All count alike at first.
        """
        seen = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.softmax(nn.Dense(number, kernel_init=nn.initializers.zeros, name=f"gate_{name}")(seen))


def mix(
    weights: Float[Array, "*batch number"], found: Sequence[Float[Array, "batch rows columns channels"]]
) -> Float[Array, "batch rows columns channels"]:
    """Returns the weighted sum of what experts found; weights of each image, or of all."""
    total = sum(
        (weights[..., i, None, None, None] * x for i, x in enumerate(found)), start=jnp.zeros((), jnp.float32)
    )
    return total.astype(found[0].dtype)
