"""The fast forms of convolution compute what `lax.conv_general_dilated` computes, and so do their gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtl_jax.models.convolution import convolution, depthwise, max_pool


def _random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("padding", "size"), [("SAME", (8, 12)), ("SAME", (7, 9)), ("VALID", (7, 9)), ([(2, 2), (1, 1)], (7, 9))]
)
@pytest.mark.parametrize(
    ("kernel_shape", "stride", "groups"),
    [
        ((1, 1, 6, 4), 1, 1),
        ((1, 1, 6, 4), 2, 1),
        ((2, 2, 6, 4), 2, 1),
        ((3, 3, 6, 4), 2, 1),
        ((3, 3, 3, 4), 1, 2),
        ((3, 3, 1, 6), 1, 6),
        ((3, 3, 1, 6), 2, 6),
        ((5, 5, 1, 6), 2, 6),
    ],
)
def test_equals_the_plain_convolution(kernel_shape, stride, groups, padding, size):
    inputs, kernel = _random(0, 2, *size, 6), _random(1, *kernel_shape)
    numbers = lax.conv_dimension_numbers(inputs.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))

    @functools.partial(jax.jit, static_argnums=0)
    def outputs_and_gradients(function, inputs, kernel):
        def convolve(inputs, kernel):
            return function(
                inputs,
                kernel,
                (stride, stride),
                padding,
                dimension_numbers=numbers,
                feature_group_count=groups,
            )

        outputs, vjp = jax.vjp(convolve, inputs, kernel)
        return outputs, vjp(_random(2, *outputs.shape))

    expected = outputs_and_gradients(lax.conv_general_dilated, inputs, kernel)
    found = outputs_and_gradients(convolution, inputs, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_every_backend_has_the_same_parameters_and_results(backend, monkeypatch):
    inputs = _random(0, 2, 8, 8, 6)
    layer = nn.Conv(6, (3, 3), 2, feature_group_count=6, conv_general_dilated=convolution)
    expected = nn.Conv(6, (3, 3), 2, feature_group_count=6)
    variables = expected.init(jax.random.key(1), inputs)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jaxpr = str(jax.make_jaxpr(lambda x: layer.apply(variables, x))(inputs))
    assert ("conv_general_dilated" in jaxpr) == (backend == "gpu")
    np.testing.assert_allclose(
        layer.apply(variables, inputs), expected.apply(variables, inputs), rtol=1e-5, atol=1e-6
    )


def test_depthwise_gradient_of_bfloat16_is_summed_in_float32():
    inputs = jnp.ones((1, 32, 32, 8), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, 8), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda kernel: depthwise(inputs, kernel).astype(jnp.float32).sum()))(kernel)
    # 30² = 900 ones: bfloat16 would stop counting at 256.
    np.testing.assert_allclose(gradient.astype(jnp.float32), 900, rtol=2**-8)


def test_max_pool_equals_the_plain_one():
    inputs = _random(0, 2, 8, 10, 3)
    expected, expected_vjp = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), inputs)
    found, found_vjp = jax.vjp(lambda x: max_pool(x, size=3, stride=2, padding=1), inputs)
    np.testing.assert_array_equal(found, expected)
    gradient = _random(1, *expected.shape)
    np.testing.assert_allclose(found_vjp(gradient)[0], expected_vjp(gradient)[0], rtol=1e-6)
