"""Which parameters learn at which rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.training.optimizer import make_optimizer

from .conftest import replace


@pytest.mark.parametrize("trunk", ["backbone", "backbone_box"])
def test_backbones_learn_at_their_own_rate(tiny_config, trunk):
    config = replace(replace(tiny_config, "optimizer.backbone_factor", 0.1), "optimizer.warmup_steps", 0)
    optimizer = make_optimizer(replace(config, "optimizer.weight_decay", 0.0))
    model = {trunk: {"conv": {"kernel": jnp.ones((2, 2))}}, "heads": {"box": {"kernel": jnp.ones((2, 2))}}}
    params = {"model": model, "weighting": ()}
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    slow, fast = updates["model"][trunk]["conv"]["kernel"], updates["model"]["heads"]["box"]["kernel"]
    np.testing.assert_allclose(slow, 0.1 * fast, rtol=1e-5)
    np.testing.assert_allclose(fast, -config.optimizer.learning_rate, rtol=1e-3)
