import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import weighting


def losses_of(params, x):
    hidden = jnp.tanh(x @ params["shared"])
    return jnp.stack(
        [jnp.mean(hidden**2), jnp.mean(jnp.sin(hidden) @ params["head"]), jnp.sum(jnp.abs(hidden))]
    )


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(1), 3)
    params = {"shared": jax.random.normal(keys[0], (4, 5)), "head": jax.random.normal(keys[1], (5,))}
    return params, jax.random.normal(keys[2], (7, 4))


@pytest.mark.parametrize("mode", ["vmap", "scan"])
def test_equals_one_gradient_after_the_other(problem, mode):
    params, x = problem
    losses, grads = jax.jit(weighting.per_task_value_and_grad(losses_of, mode=mode))(params, x)
    np.testing.assert_allclose(losses, losses_of(params, x), rtol=1e-6)
    for task in range(3):
        expected = jax.grad(lambda p, task=task: losses_of(p, x)[task])(params)
        for name in params:
            np.testing.assert_allclose(grads[name][task], expected[name], rtol=1e-5, atol=1e-6)


def test_forward_runs_once_and_aux_comes_back(problem):
    params, x = problem
    calls = []

    def loss_fn(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return losses_of(params, x), {"seen": x.sum()}

    (losses, aux), grads = weighting.per_task_value_and_grad(loss_fn, has_aux=True)(params, x)
    jax.effects_barrier()
    assert len(calls) == 1
    assert losses.shape == (3,)
    np.testing.assert_allclose(aux["seen"], x.sum())
    assert grads["shared"].shape == (3, 4, 5)


def test_norms_and_cosines():
    grads = {"a": jnp.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), "b": jnp.array([[4.0], [0.0], [0.0]])}
    norms, cosines = weighting.norms_and_cosines(weighting.gramian(grads))
    np.testing.assert_allclose(norms, [5.0, 2.0, 0.0])
    np.testing.assert_allclose(cosines, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-6)


def test_imports_no_other_part_of_the_project():
    code = (
        "import sys; from mtl_jax import weighting; "
        "print([m for m in sys.modules if m.startswith(('flax', 'grain', 'tensorflow', 'mtl_jax.'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = eval(found)
    assert "mtl_jax.weighting.aggregation" in modules
    assert all(module.startswith("mtl_jax.weighting") for module in modules), modules
