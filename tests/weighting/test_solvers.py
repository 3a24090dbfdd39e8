"""The solvers against independent solutions, of matrices of all kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from mtl_jax.weighting import solvers

SIZES = (2, 3, 4, 8, 16, 32)
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}


@st.composite
def matrices(draw):
    """Gradients of K tasks in at least as many dimensions, of like or unlike lengths, in conflict or not."""
    size = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = rng.normal(size=(size, size * draw(st.sampled_from([2, 4, 10]))))
    matrix += draw(st.sampled_from([0.0, 0.3, -0.5])) * rng.normal(size=matrix.shape[1])
    return matrix * 10 ** rng.uniform(-1, 1, (size, 1)) ** draw(st.sampled_from([0, 1]))


@functools.cache
def compiled(name):
    return jax.jit(getattr(solvers, name))


def solve(dtype, name, matrix, *args):
    """Returns the weights that a solver finds from the Gramian in a given precision."""
    with jax.enable_x64(dtype == "float64"):
        gram = jnp.asarray(matrix @ matrix.T, dtype)
        found = compiled(name)(gram, *(jnp.asarray(a, dtype) for a in args))
        assert found.dtype == dtype
        return np.asarray(found, np.float64)


def close(found, expected, scale, dtype):
    return np.linalg.norm(found - expected) <= TOLERANCE[dtype] * scale


battery = functools.partial(settings, max_examples=100, deadline=None, derandomize=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@battery()
@given(matrix=matrices())
def test_min_norm_point(dtype, matrix):
    weights = solve(dtype, "min_norm_point", matrix)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-6)
    # A last row asks for weights that sum to one; the least squares are a multiple of the point.
    size, unit = len(matrix), np.linalg.norm(matrix, axis=1).min()
    expected, _ = nnls(np.vstack([matrix.T / unit, np.ones(size)]), np.append(np.zeros(matrix.shape[1]), 1.0))
    point = matrix.T @ (expected / expected.sum())
    assert close(matrix.T @ weights, point, np.linalg.norm(point), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@battery()
@given(matrix=matrices())
def test_dual_cone_projection(dtype, matrix):
    start = np.full(len(matrix), 1 / len(matrix))
    weights = solve(dtype, "dual_cone_projection", matrix, start)
    norms = np.linalg.norm(matrix, axis=1)
    mean = matrix.T @ start
    change, _ = nnls((matrix / norms[:, None]).T, -mean)
    expected = mean + matrix.T @ (change / norms)
    assert close(matrix.T @ weights, expected, np.linalg.norm(mean), dtype)
    assert np.all(weights >= start - 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@battery()
@given(matrix=matrices(), radius=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_worst_gain_maximum(dtype, matrix, radius):
    """The direction lies on the ball, and no other can do better: the dual says how well any can do."""
    start = np.full(len(matrix), 1 / len(matrix))
    weights = solve(dtype, "worst_gain_maximum", matrix, start, radius)
    mean, direction = matrix.T @ start, matrix.T @ weights
    reach = radius * np.linalg.norm(mean)
    assert np.linalg.norm(direction - mean) == pytest.approx(reach, rel=TOLERANCE[dtype])
    mixture = np.maximum(weights - start, 0)
    mixture /= mixture.sum()
    best = mixture @ matrix @ mean + reach * np.linalg.norm(matrix.T @ mixture)
    scale = np.linalg.norm(direction) * np.linalg.norm(matrix, axis=1).max()
    assert best - np.min(matrix @ direction) <= TOLERANCE[dtype] * scale


def test_worst_gain_maximum_by_a_general_solver():
    matrix = np.random.default_rng(0).normal(size=(4, 12))
    mean = matrix.mean(axis=0)
    reach = 0.5 * np.linalg.norm(mean)

    def dual(weights):
        return weights @ matrix @ mean + reach * np.linalg.norm(weights @ matrix)

    simplex = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    start, bounds = np.full(4, 0.25), [(0, 1)] * 4
    expected = minimize(
        dual, start, method="SLSQP", bounds=bounds, constraints=simplex, options={"ftol": 1e-14}
    ).fun
    weights = solve("float64", "worst_gain_maximum", matrix, np.full(4, 0.25), 0.5)
    assert np.min(matrix @ (matrix.T @ weights)) == pytest.approx(expected, rel=1e-6)


def fair_weights(matrix, exponent):
    """Minimises `w'Gw / 2 - sum of w^(1 - p) / (1 - p)`, `p = 1 / exponent`, in the logarithms of the weights."""
    gram, power = matrix @ matrix.T, 1 / exponent

    def value(u):
        w = np.exp(u)
        utility = u if power == 1 else np.expm1((1 - power) * u) / (1 - power)
        return w @ gram @ w / 2 - utility.sum()

    def gradient(u):
        w = np.exp(u)
        return w * (gram @ w) - w ** (1 - power)

    def hessian(u):
        w = np.exp(u)
        return gram * w * w[:, None] + np.diag(w * (gram @ w) - (1 - power) * w ** (1 - power))

    start = -np.log(np.diagonal(gram)) / (1 + power)
    found = minimize(
        value, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9, "maxiter": 500}
    ).x
    for _ in range(3):  # values are too alike by now for a search; the gradient is not
        found -= np.linalg.solve(hessian(found), gradient(found))
    return np.exp(found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@battery()
@given(matrix=matrices(), exponent=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_proportional_fairness(dtype, matrix, exponent):
    weights = solve(dtype, "proportional_fairness", matrix, exponent)
    assert weights.min() > 0
    expected = matrix.T @ fair_weights(matrix, exponent)
    assert close(matrix.T @ weights, expected, np.linalg.norm(expected), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tasks_that_contradict_each_other_exactly(dtype):
    opposed = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert np.linalg.norm(opposed.T @ solve(dtype, "min_norm_point", opposed)) < TOLERANCE[dtype]
    projected = solve(dtype, "dual_cone_projection", opposed, np.array([1.0, 0.0]))
    assert np.linalg.norm(opposed.T @ projected) < 10 * TOLERANCE[dtype]
    for name, *arguments in (("worst_gain_maximum", np.full(2, 0.5), 0.5), ("proportional_fairness",)):
        assert np.all(np.isfinite(solve(dtype, name, opposed, *arguments)))


def test_min_norm_point_where_one_gradient_is_zero():
    matrix = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    np.testing.assert_array_equal(solve("float32", "min_norm_point", matrix), [0, 1, 0])


def test_pseudo_inverse():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 3))
    gram = matrix @ matrix.T
    np.testing.assert_allclose(
        solvers.pseudo_inverse(jnp.asarray(gram, jnp.float32)),
        np.linalg.pinv(gram, rcond=1e-5),
        rtol=1e-2,
        atol=1e-4,
    )
