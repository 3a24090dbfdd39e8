"""AdaShare: one network in which each task learns which blocks it runs and which it skips."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.network import Frames, MultiTaskNetwork
from mtl_jax.models.sharing.branched import choose


class AdaShare(MultiTaskNetwork):
    """Shared weights, and for each task and block the choice whether it runs.

    Blocks that change the shape always run. Choices are sampled in training, straight-through, and the likelier is
    taken afterwards; all tasks go through the network as one batch. The loss gets

        sparsity Σ_tb P(t runs b)  +  sharing Σ_b w_b Σ_{s<t} |P(s runs b) - P(t runs b)|

    with weights `w_b` that fall from 1 at the first block that can be skipped: lower blocks are to be shared. The
    paper's curriculum, which opens the blocks to choice one after the other, is left out.

    Attributes:
        sparsity: Weight of the first term.
        sharing: Weight of the second one.
        temperature: Of the softmax.

    Reference: Sun et al., "AdaShare: Learning What To Share For Efficient Deep Multi-Task Learning", NeurIPS 2020
    (arXiv:1911.12423).
    """

    sparsity: float = 5e-3
    sharing: float = 5e-3
    temperature: float = 1.0

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's feature map."""
        number = len(self.tasks)
        backbone = self.make_backbone(name="backbone")
        entry = backbone.entry(*frames, train)
        x = jnp.tile(entry, (number, 1, 1, 1))
        outputs, skippable = [], 0
        for stage, blocks in enumerate(backbone.blocks()):
            for place in range(len(blocks)):
                y = backbone.block(stage, place, x, train)
                if y.shape == x.shape:
                    # Running is a little likelier at first: a network without blocks learns nothing.
                    logits = self.param(
                        f"policy{skippable}", lambda _: jnp.tile(jnp.array([1.0, 0.0]), (number, 1))
                    )
                    runs = choose(self, logits, self.temperature, train)[:, 0]
                    runs = jnp.repeat(runs, len(entry))[:, None, None, None].astype(x.dtype)
                    y = runs * y + (1 - runs) * x
                    skippable += 1
                x = y
            outputs.append(x)
        features = self.make_neck(name="neck")(backbone.pyramid(outputs, train), train)
        return dict(zip(self.tasks, jnp.split(features, number), strict=True))

    @nn.nowrap
    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """Returns the penalty on choices."""
        blocks = sum(name.startswith("policy") for name in params)
        runs = jnp.stack([jax.nn.softmax(params[f"policy{b}"], axis=-1)[:, 0] for b in range(blocks)])
        falling = 1 - jnp.arange(blocks) / blocks
        apart = jnp.abs(runs[:, :, None] - runs[:, None, :]).sum(axis=(1, 2)) / 2
        return self.sparsity * jnp.sum(runs) + self.sharing * jnp.sum(falling * apart)
