"""Attention over the features of the last frames: what an object looked like there helps to see it here."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.temporal import Temporal


class TemporalAttention(Temporal):
    """Each cell takes from cells of this frame and the ones before what is alike, wherever it is.

        y = x + W_o Σ_j softmax_j(q(x) · k(m_j) / √d) v(m_j)

    over the cells `m_j` of this frame and of up to `frames` before it, averaged over 4×4 so that they are few. The
    paper attends from proposals to proposals of frames drawn from the whole video; online there are only those before.

    Attributes:
        frames: Frames before that are remembered.

    Reference: Wu et al., "Sequence Level Semantics Aggregation for Video Object Detection", ICCV 2019
    (arXiv:1907.06390).
    """

    frames: int = 4

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Float[Array, "batch rows columns channels"]:
        """Returns the feature map."""
        x = self.backbone_and_neck(frames, train)
        clips = self.clips(x)
        pooled = nn.avg_pool(x, (4, 4), strides=(4, 4), padding="SAME")
        seen = pooled.reshape(*clips.shape[:2], -1, x.shape[-1])
        number, time = clips.shape[:2]
        if self.online:
            memory = self.variable(
                "memory", "frames", jnp.zeros, (number, self.frames, *seen.shape[2:]), seen.dtype
            )
            filled = self.variable("memory", "filled", jnp.zeros, (number, self.frames), jnp.bool_)
            seen = jnp.concatenate([memory.value, seen], axis=1)
            known = jnp.concatenate([filled.value, jnp.ones((number, 1), bool)], axis=1)
            memory.value, filled.value = seen[:, 1:], known[:, 1:]
            looks = known[:, None]
        else:
            age = jnp.arange(time)[:, None] - jnp.arange(time)
            looks = jnp.broadcast_to((age >= 0) & (age <= self.frames), (number, time, time))
        return x + self._attend(clips, seen, looks).reshape(x.shape)

    def _attend(
        self,
        x: Float[Array, "clips time rows columns channels"],
        seen: Float[Array, "clips frames cells channels"],
        looks: Bool[Array, "clips time frames"],
    ) -> Float[Array, "clips time rows columns channels"]:
        channels = x.shape[-1]
        queries, keys, values = (
            nn.Dense(channels, dtype=self.dtype, name=name)(y)
            for name, y in (("query", x), ("key", seen), ("value", seen))
        )
        alike = jnp.einsum("bthwc,bfnc->bthwfn", queries, keys).astype(jnp.float32) / channels**0.5
        alike = jnp.where(looks[:, :, None, None, :, None], alike, -jnp.inf)
        weights = nn.softmax(alike, axis=(-2, -1)).astype(x.dtype)
        taken = jnp.einsum("bthwfn,bfnc->bthwc", weights, values)
        return nn.Dense(channels, dtype=self.dtype, name="output")(taken)
