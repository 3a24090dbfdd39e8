import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from mtl_jax.tracking.assignment import assign, greedy

assign = jax.jit(assign)


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (8, 5), (12, 12), (40, 33)])
@pytest.mark.parametrize("density", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_scipy(shape, density, ties):
    random = np.random.default_rng(0)
    for _ in range(20):
        similarity = random.random(shape).astype(np.float32)
        if ties:
            similarity = np.round(4 * similarity) / 4
        allowed = random.random(shape) < density
        columns = np.asarray(assign(similarity, allowed))
        rows = np.flatnonzero(columns >= 0)
        assert allowed[rows, columns[rows]].all()
        assert len(set(columns[rows])) == len(rows)
        worth = np.where(allowed, similarity, 0)
        best = worth[linear_sum_assignment(worth, maximize=True)].sum()
        np.testing.assert_allclose(similarity[rows, columns[rows]].sum(), best, rtol=1e-5)


def test_equals_optax():
    similarity = jax.random.uniform(jax.random.key(0), (12, 12))
    rows, columns = optax.assignment.hungarian_algorithm(-similarity)
    np.testing.assert_array_equal(assign(similarity, jnp.ones((12, 12), bool)), columns[jnp.argsort(rows)])


def test_padding_changes_nothing():
    random = np.random.default_rng(1)
    similarity, allowed = random.random((5, 8)).astype(np.float32), random.random((5, 8)) < 0.5
    # Whatever stands in rows and columns that are not allowed, NaN included.
    padded, mask = np.full((12, 12), np.nan, np.float32), np.zeros((12, 12), bool)
    padded[:5, :8], mask[:5, :8] = similarity, allowed
    columns = assign(padded, mask)
    np.testing.assert_array_equal(columns[:5], assign(similarity, allowed))
    assert (columns[5:] == -1).all()


def test_vmap_equals_each():
    random = np.random.default_rng(2)
    similarity, allowed = random.random((4, 5, 8)).astype(np.float32), random.random((4, 5, 8)) < 0.5
    together = jax.jit(jax.vmap(assign))(similarity, allowed)
    for i in range(4):
        np.testing.assert_array_equal(together[i], assign(similarity[i], allowed[i]))


def test_greedy_lets_columns_choose_in_turn():
    random = np.random.default_rng(3)
    for _ in range(20):
        similarity, allowed = random.normal(size=(6, 8)).astype(np.float32), random.random((6, 8)) < 0.5
        expected = np.full(6, -1)
        for column in range(8):
            free = [row for row in range(6) if allowed[row, column] and expected[row] < 0]
            if free:
                expected[max(free, key=lambda row: similarity[row, column])] = column
        np.testing.assert_array_equal(jax.jit(greedy)(similarity, allowed), expected)
