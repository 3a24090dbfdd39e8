"""MTAN: one trunk, and for each task a soft attention mask on every stage's features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.layers import Conv, ConvNorm
from mtl_jax.models.network import Frames, MultiTaskNetwork


class MTAN(MultiTaskNetwork):
    """Multi-task attention network.

    With the shared features `p_s` of stage s, a task's are

        a_s = σ(W₂ ReLU(norm(W₁ [p_s; f(x_{s-1})])))     x_s = a_s ⊙ p_s

    where f is a 3×3 convolution to the resolution of stage s. In the paper the mask also sees features from the middle
    of the stage; here those of its end take their place, as stages differ in what they are made of.

    Attributes:
        reduction: The mask's hidden channels are about those of the stage over this.

    Reference: Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019 (arXiv:1803.10704).
    """

    reduction: int = 4

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map."""
        backbone = self.make_backbone(name="backbone")
        x = backbone.entry(*frames, train)
        outputs: dict[str, list[Array]] = {task: [] for task in self.tasks}
        for stage in range(backbone.num_stages):
            x = backbone.stage(stage, x, train)
            for task, seen in outputs.items():
                seen.append(self._attend(f"attention{stage}_{task}", x, seen[-1] if seen else None, train))
        return {
            task: self.make_neck(name=f"neck_{task}")(backbone.pyramid(seen, train), train)
            for task, seen in outputs.items()
        }

    def _attend(self, name: str, shared: Array, before: Array | None, train: bool) -> Array:
        channels = shared.shape[-1]
        hidden = 8 * max(channels // self.reduction // 8, 1)  # group norm asks for a multiple of eight
        options = {"norm": self.norm, "dtype": self.dtype}
        looked_at = shared
        if before is not None:
            stride = before.shape[1] // shared.shape[1]
            carried = ConvNorm(hidden, 3, stride, **options, name=f"{name}_carry")(before, train)
            looked_at = jnp.concatenate([shared, carried], axis=-1)
        y = ConvNorm(hidden, 1, **options, name=f"{name}_hidden")(looked_at, train)
        mask = Conv(channels, (1, 1), dtype=self.dtype, name=f"{name}_mask")(y)
        return jax.nn.sigmoid(mask) * shared
