"""What keeps a run from harm: steps that are not finite change nothing, spikes are clipped, float16 is scaled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

_FIRST_SCALE = 2.0**15
_GROW_AFTER = 2000  # good steps
_LARGEST_SCALE = 2.0**24


class Guard(NamedTuple):
    """What went wrong so far, and the loss scale.

    Attributes:
        skipped: Steps whose gradient was not finite, and which changed nothing.
        in_a_row: How many of these came since the last good step. An overflow of float16 is not counted while a smaller
            scale may help.
        clipped: Steps whose gradient was longer than `optimizer.clip_norm`.
        scale: By how much gradients are larger inside of the network, in float16; else None.
        good_steps: Steps since the scale last changed.
    """

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    clipped: Int[Array, ""]
    scale: Float[Array, ""] | None
    good_steps: Int[Array, ""]


def init_guard(dtype: str) -> Guard:
    """Returns the guard before the first step, for activations of this type."""
    zero = jnp.zeros((), jnp.int32)
    return Guard(zero, zero, zero, jnp.asarray(_FIRST_SCALE) if dtype == "float16" else None, zero)


def watch(guard: Guard, finite: Bool[Array, ""], norm: Float[Array, ""], clip_norm: float) -> Guard:
    """Returns the guard after a step.

    A loss scale is halved after an overflow, and doubled after 2,000 good steps, as in Micikevicius et al., "Mixed
    Precision Training", ICLR 2018 (arXiv:1710.03740).

    Args:
        guard: The guard before.
        finite: Whether the step was finite.
        norm: Norm of the gradient.
        clip_norm: Where it is clipped.
    """
    counts, scale, good_steps = ~finite, guard.scale, guard.good_steps
    if scale is not None:
        counts &= scale <= 1
        good_steps = jnp.where(finite, good_steps + 1, 0)
        grows = good_steps >= _GROW_AFTER
        scale = jnp.where(finite, jnp.where(grows, 2 * scale, scale), scale / 2)
        scale = jnp.clip(scale, 1, _LARGEST_SCALE)
        good_steps = jnp.where(grows, 0, good_steps)
    return Guard(
        skipped=guard.skipped + ~finite,
        in_a_row=jnp.where(finite, 0, guard.in_a_row + counts),
        clipped=guard.clipped + (finite & (norm > clip_norm)),
        scale=scale,
        good_steps=good_steps,
    )


def are_finite(tree: Any) -> Bool[Array, "leaves"]:
    """Returns for each leaf whether all of it is finite; a norm that overflows counts as not."""
    # The same sums as those of the gradient's norm, which the compiler takes once.
    return jnp.stack([jnp.isfinite(optax.tree.norm(leaf, squared=True)) for leaf in jax.tree.leaves(tree)])


def scale_gradient(x: Any, factor: Float[Array, ""] | None) -> Any:
    """Returns `x`, whose gradient is multiplied by a factor on the way back, if there is one."""
    return x if factor is None else _scale_gradient(x, factor)


@jax.custom_vjp
def _scale_gradient(x: Any, factor: Array) -> Any:
    return x


def _forward(x: Any, factor: Array) -> tuple[Any, Array]:
    return x, factor


def _backward(factor: Array, grads: Any) -> tuple[Any, Array]:
    return jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads), jnp.zeros_like(factor)


_scale_gradient.defvjp(_forward, _backward)
