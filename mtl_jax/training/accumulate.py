"""A batch through the network in parts, one after the other, in the memory of one part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_parts(
    function: Callable[..., tuple[Any, Any]], parts: int, carry: Any, *arrays: Any
) -> tuple[Any, Any]:
    """Returns `function(carry, *arrays)`, computed in parts; the backward pass computes each part anew.

    Gradients add up over the parts by themselves, and what is done with the results sees all of them at once: losses,
    their weighting and per-task gradients are those of the whole batch, whatever the scheme.

    Args:
        function: From what is carried from part to part, and a part of the arrays, to what is carried on and results.
        parts: Number of parts; 1: the function is called as it is.
        carry: What the first part gets.
        *arrays: Arrays whose first axis counts examples; it divides by `parts`.

    Returns:
        What the last part carried on, and results for all examples, in order.
    """
    if parts == 1:
        return function(carry, *arrays)

    def split(x: jax.Array) -> jax.Array:
        # Part i has examples i, i + parts, ...: some of each device, which holds neighbours.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    step = jax.checkpoint(lambda carry, part: function(carry, *part))
    # Inside of a loop, XLA's CPU backend has no fast convolution.
    unroll = parts if jax.default_backend() == "cpu" else 1
    carry, results = jax.lax.scan(step, carry, jax.tree.map(split, arrays), unroll=unroll)
    return carry, jax.tree.map(join, results)
