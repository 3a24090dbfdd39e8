"""States of schemes as trees of arrays that jit, loops and donation take."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def own_arrays(tree: PyTree) -> PyTree:
    """Returns copies of fixed types: a state goes round in loops, and may be donated, which no two leaves may share."""
    return jax.tree.map(lambda x: jnp.array(x, x.dtype), tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Returns the tree in the types of another."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)
