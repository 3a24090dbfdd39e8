"""Hard parameter sharing: one trunk for all tasks."""

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.models.network import Frames, MultiTaskNetwork


class Hard(MultiTaskNetwork):
    """One backbone and one neck, whose feature map all heads see.

    Reference: Caruana, "Multitask Learning", Machine Learning 28, 1997.
    """

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Float[Array, "batch rows columns channels"]:
        """Returns the feature map."""
        return self.make_neck(name="neck")(self.make_backbone(name="backbone")(*frames, train), train)

    @nn.nowrap
    def features_of(
        self, features: Float[Array, "batch rows columns channels"], task: str
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the feature map, which is every task's."""
        return features
