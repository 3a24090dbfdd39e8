"""DSelect-k: a mixture of experts in which each task learns, by gradient, which few experts it uses."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.errors import UserError
from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.experts import Experts, mix


class DSelectK(Experts):
    """Experts chosen by k selectors a task, each a binary code for the number of one expert.

    A selector of task t has `m = log2 experts` numbers z, of which a smooth step S, exactly 0 and 1 beyond `±gamma/2`,
    makes bits; expert e then counts for `r_e = Π_b (S(z_b) if bit b of e is set, else 1 - S(z_b))`. A task's weights
    are `Σ_j softmax(w)_j r_j`: in the end at most k are not zero. `entropy Σ_j H(r_j)` in the loss makes selectors
    decide.

    The gates are the paper's static ones: a task chooses once, not for each image anew.

    Attributes:
        experts: Number of experts; a power of two, so that each code is an expert's.
        selectors: k.
        gamma: Width of the smooth step.
        entropy: Weight of the selectors' entropy beside the losses.

    Reference: Hazimeh et al., "DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to
    Multi-Task Learning", NeurIPS 2021 (arXiv:2106.03760).
    """

    experts: int = 4
    selectors: int = 2
    gamma: float = 1.0
    entropy: float = 1e-3

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's mixture."""
        bits = self.experts.bit_length() - 1
        if self.experts != 2**bits:
            raise UserError(f"model.sharing.experts: found {self.experts}; expected a power of two")
        outputs = self.shared(frames, train)
        found = [self.expert(f"expert{i}", outputs, train) for i in range(self.experts)]

        def init(key: PRNGKeyArray) -> Float[Array, "selectors bits"]:
            # Where the step has a slope, as in the authors' code; not at one point, or all selectors learn the same.
            return self.gamma / 100 * jax.random.uniform(key, (self.selectors, bits), minval=-1, maxval=1)

        features = {}
        for task in self.tasks:
            code = self.param(f"code_{task}", init)
            worth = self.param(f"worth_{task}", nn.initializers.normal(0.01), (self.selectors,))
            features[task] = mix(nn.softmax(worth) @ self._choices(code), found)
        return features

    @nn.nowrap
    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """Returns the entropy of the selectors, weighted."""
        choices = jnp.stack([self._choices(params[f"code_{task}"]) for task in self.tasks])
        logs = jnp.log(jnp.where(choices > 0, choices, 1))
        return -self.entropy * jnp.sum(choices * logs)

    @nn.nowrap
    def _choices(self, code: Float[Array, "selectors bits"]) -> Float[Array, "selectors experts"]:
        """Returns how much each expert counts for each selector."""
        t = jnp.clip(code / self.gamma, -0.5, 0.5)
        step = 0.5 + 1.5 * t - 2 * t**3
        wanted = jnp.arange(self.experts)[:, None] >> jnp.arange(code.shape[-1]) & 1
        return jnp.prod(jnp.where(wanted == 1, step[:, None], 1 - step[:, None]), axis=-1)
