import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.models.batch_norm import BatchNorm
from mtl_jax.models.layers import ConvNorm


@pytest.fixture(params=[jnp.float32, jnp.bfloat16])
def case(request):
    x = (2 * jax.random.normal(jax.random.key(0), (4, 6, 5, 8)) + 1).astype(request.param)
    plain = nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=request.param)
    variables = plain.init(jax.random.key(1), x)
    variables["params"] = jax.tree.map(
        lambda p: p + jax.random.normal(jax.random.key(2), p.shape), variables["params"]
    )
    return x, plain, variables


def value_and_grad(module, variables, x, activation=lambda y: y):
    weights = jax.random.normal(jax.random.key(3), x.shape)

    def loss(params, x):
        y, updates = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        y = activation(y)
        return jnp.sum(y.astype(jnp.float32) * weights), (y, updates)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], x)


@pytest.mark.parametrize("relu", [False, True])
def test_is_that_of_flax(case, relu):
    x, plain, variables = case
    ours = BatchNorm(use_running_average=False, dtype=x.dtype, relu=relu)
    (_, (y, updates)), grads = value_and_grad(ours, variables, x)
    (_, (expected, expected_updates)), expected_grads = value_and_grad(
        plain, variables, x, nn.relu if relu else lambda y: y
    )
    np.testing.assert_array_equal(y, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected_updates)
    tolerance = 1e-4 if x.dtype == jnp.float32 else 2e-2
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        assert a.dtype == b.dtype
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(abs(b).max()))


def test_running_averages_are_used_in_evaluation(case):
    x, _, variables = case
    y = BatchNorm(use_running_average=True, dtype=x.dtype, relu=True).apply(variables, x)
    expected = nn.relu(nn.BatchNorm(use_running_average=True, dtype=x.dtype).apply(variables, x))
    np.testing.assert_allclose(y.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-2)


def test_the_backward_pass_keeps_no_feature_map_but_the_input():
    x = jnp.ones((2, 8, 8, 16), jnp.bfloat16)
    layer = ConvNorm(16, 1, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, True)

    def kept(x):
        return jax.vjp(lambda x: layer.apply(variables, x, True, mutable=["batch_stats"])[0], x)[1]

    maps = [
        leaf for leaf in jax.tree.leaves(jax.eval_shape(kept, x)) if leaf.ndim == 4 and leaf.shape[0] == 2
    ]
    assert [leaf.dtype for leaf in maps] == [jnp.bfloat16]
