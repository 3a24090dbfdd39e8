"""A convolutional GRU over the shared features: what was seen before stays where it was seen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.layers import Conv
from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.temporal import Temporal


class Recurrent(Temporal):
    """The heads see the neck's features and the state of a GRU that goes through the clip, added.

    References: Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video Representations", ICLR
    2016 (arXiv:1511.06432), for the GRU; Tokmakov et al., "Learning to Track with Object Permanence", ICCV 2021
    (arXiv:2103.14258), for its use in tracking.
    """

    @nn.compact
    def share(self, frames: Frames, train: bool) -> Float[Array, "batch rows columns channels"]:
        """Returns the feature map."""
        x = self.backbone_and_neck(frames, train)
        clips = self.clips(x)
        cell = ConvGRU(self.dtype, name="gru")
        state = jnp.zeros_like(clips[:, 0])
        if self.online:
            memory = self.variable("memory", "state", jnp.zeros_like, state)
            state = memory.value
        states = []
        for t in range(clips.shape[1]):
            state = cell(state, clips[:, t])
            states.append(state)
        if self.online:
            memory.value = state
        return x + jnp.stack(states, axis=1).reshape(x.shape)


class ConvGRU(nn.Module):
    """A gated recurrent unit whose products are 3×3 convolutions.

    `z, r = σ(conv [x; h])`, `c = tanh(conv [x; r ⊙ h])`, `h ← (1 - z) ⊙ h + z ⊙ c`.

    Attributes:
        dtype: Type of the activations.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "batch rows columns channels"],
        x: Float[Array, "batch rows columns channels"],
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the state after one more frame."""
        channels = x.shape[-1]
        gates = Conv(2 * channels, (3, 3), dtype=self.dtype, name="gates")(
            jnp.concatenate([x, state], axis=-1)
        )
        update, reset = jnp.split(jax.nn.sigmoid(gates), 2, axis=-1)
        seen = jnp.concatenate([x, reset * state], axis=-1)
        candidate = jnp.tanh(Conv(channels, (3, 3), dtype=self.dtype, name="candidate")(seen))
        return (1 - update) * state + update * candidate
