"""Per-task gradients, and what they say about each other."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PyTree = Any


def per_task_value_and_grad(
    loss_fn: Callable[..., Any], *, mode: Literal["vmap", "scan"] = "vmap", has_aux: bool = False
) -> Callable[..., tuple[Any, PyTree]]:
    """Like `jax.value_and_grad`, for a function that returns one loss for each of K tasks.

    The forward pass runs once and is linearised once; only the backward pass is repeated, either for all tasks at once
    (`vmap`: fastest, K times the memory of a backward pass) or one after the other (`scan`: least memory).

    Args:
        loss_fn: `loss_fn(params, *args) -> losses [K]`, or `(losses, aux)` with `has_aux`.
        mode: How the K backward passes run.
        has_aux: Whether `loss_fn` returns something besides the losses, such as batch statistics.

    Returns:
        A function with `loss_fn`'s arguments that returns `losses` (or `(losses, aux)`) and the gradients with respect
        to the first argument, each leaf with a leading axis of K.

    Example:
        >>> losses, grads = per_task_value_and_grad(loss_fn)(params, batch)
    """

    def value_and_grad(params: PyTree, *args: Any) -> tuple[Any, PyTree]:
        def losses_and_aux(params: PyTree) -> tuple[Array, Any]:
            result = loss_fn(params, *args)
            return result if has_aux else (result, None)

        losses, pullback, aux = jax.vjp(losses_and_aux, params, has_aux=True)
        cotangents = jnp.eye(len(losses), dtype=losses.dtype)
        backward = jax.vmap if mode == "vmap" else (lambda f: lambda xs: jax.lax.map(f, xs))
        (grads,) = backward(pullback)(cotangents)
        return ((losses, aux) if has_aux else losses), grads

    return value_and_grad


def gramian(grads: PyTree, others: PyTree | None = None) -> Float[Array, "tasks tasks"]:
    """Returns the inner products of per-task gradients, over all leaves, in float32 at least.

    Args:
        grads: Per-task gradients; each leaf with a leading task axis. None leaves are skipped.
        others: Those to multiply with, alike in shape, where they are not the same: row i, column j is the product of
            task i's gradient in `grads` with task j's in `others`.
    """

    def products(g: Array, h: Array) -> Array:
        g, h = (x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (g, h))
        return jnp.einsum("ip,jp->ij", g, h, precision=jax.lax.Precision.HIGHEST)

    others = grads if others is None else others
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(products, grads, others)))


def norms_and_cosines(
    gram: Float[Array, "tasks tasks"],
) -> tuple[Float[Array, "tasks"], Float[Array, "tasks tasks"]]:
    """Returns the norms of the gradients and their pairwise cosines (0 where a gradient is zero)."""
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    return norms, gram / jnp.maximum(norms[:, None] * norms[None, :], 1e-30)
