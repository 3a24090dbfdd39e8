"""Soft parameter sharing: one trunk a task, tied by a penalty on how far their parameters are from one another."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.sharing.parallel import Parallel


class Soft(Parallel):
    """Backbones tied by a penalty.

    With the parameters `θ_t` of task t's backbone, leaf by leaf:

        l2:          strength Σ_t ‖θ_t - mean_s θ_s‖²
        trace_norm:  strength ‖[θ_1; ...; θ_K]‖_*

    The former pulls them together; in the limit of a large strength they are one, as in hard sharing. The trace norm,
    the sum of the singular values of the matrix whose rows are the tasks', asks for few directions in which they
    differ.

    Attributes:
        tie: Which penalty.
        strength: Its weight beside the losses.

    References: Duong et al., "Low Resource Dependency Parsing", ACL 2015, for `l2`; Yang & Hospedales, "Trace Norm
    Regularised Deep Multi-Task Learning", ICLR workshop 2017 (arXiv:1606.04038), for `trace_norm`, there called "last
    axis flattening".
    """

    tie: Literal["l2", "trace_norm"] = "l2"
    strength: float = 1e-3

    @nn.nowrap
    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """Returns the penalty."""
        measure = {"l2": _distance, "trace_norm": _trace_norm}[self.tie]
        terms = jax.tree.map(
            lambda *leaves: measure(jnp.stack([x.ravel() for x in leaves])), *self.trunks(params)
        )
        return self.strength * jax.tree.reduce(jnp.add, terms)


def _distance(rows: Float[Array, "tasks size"]) -> Float[Array, ""]:
    return jnp.sum((rows - rows.mean(axis=0)) ** 2)


def _trace_norm(rows: Float[Array, "tasks size"]) -> Float[Array, ""]:
    """Returns the sum of the singular values; differentiable where some are equal or zero, too.

    The gradient of `tr (M Mᵀ)^½` is `(M Mᵀ)^-½ M`; through an eigendecomposition it would not be a number there.
    """
    gram = rows @ rows.T
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(gram))
    values = jnp.maximum(values, 0)
    roots = jnp.sqrt(values)
    # What is zero but for rounding has no direction to be pulled along.
    inverse = jnp.where(values > 1e-6 * values[-1], 1 / jnp.maximum(roots, 1e-30), 0)
    linear = jnp.sum((vectors * inverse) @ vectors.T * gram) / 2
    return linear + jax.lax.stop_gradient(jnp.sum(roots) - linear)
