"""What the tests of the schemes share: how one is made and run, and what it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import weighting

LOSSES = jnp.array([3.0, 0.2, 1.0])
NEEDED = {
    "fixed": {"weights": [0.5, 0.3, 0.2]},
    "uncertainty": {"kinds": ["regression", "classification", "regression"]},
    "cosmos": {"preference": [1.0, 2.0, 1.0]},
    "pbi": {"preference": [3.0, 0.1, 1.0]},
}


@functools.cache
def compiled(name, num_tasks):
    tx = weighting.make_default(name, num_tasks)
    return tx, jax.jit(lambda grads, state, losses, mask: tx.update(grads, state, losses=losses, mask=mask))


def aggregate(name, matrix, losses=None, mask=None):
    matrix = jnp.asarray(matrix)
    tx, update = compiled(name, len(matrix))
    losses = jnp.arange(1.0, len(matrix) + 1) if losses is None else jnp.asarray(losses)
    mask = jnp.ones(len(matrix), bool) if mask is None else jnp.asarray(mask)
    combined, state = update(matrix, tx.init(matrix[0]), losses, mask)
    return np.asarray(combined), state


def gradients(num_tasks, seed=0, features=20, shift=0.3):
    return np.random.default_rng(seed).normal(shift, 1, (num_tasks, features)).astype(np.float32)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def make_scalarization(name, tasks=3, **options):
    needed = {key: (value * tasks)[:tasks] for key, value in NEEDED.get(name, {}).items()}
    return weighting.make(name, **needed | options)


def run(scheme, sequence, masks=None, tasks=3):
    """Returns total and weights of each step, and the state, with the losses after a step 0.9 times those before."""
    params, state = scheme.init(tasks)
    apply = jax.jit(lambda state, losses, mask: scheme.apply(params, state, losses, mask=mask))
    rows = []
    for i, losses in enumerate(sequence):
        mask = jnp.ones(tasks, bool) if masks is None else masks[i]
        total, (state, weights) = apply(state, losses, mask)
        if scheme.observe is not None:
            state = scheme.observe(state, losses * jnp.array([0.9, 0.8, 0.95])[:tasks], mask=mask)
        rows.append((total, weights))
    return rows, state


def falling(steps=6, seed=0, tasks=3):
    noise = jax.random.uniform(jax.random.key(seed), (steps, tasks), minval=0.8, maxval=1.2)
    return LOSSES[:tasks] * jnp.exp(-jnp.outer(jnp.arange(steps), jnp.array([0.3, 0.1, 0.2])[:tasks])) * noise
