"""Normalises a batch on four CPU devices by the statistics of each one's share; saves that and what it should be."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mtl_jax.config import MeshConfig
from mtl_jax.models.layers import normalization
from mtl_jax.training.mesh import make_mesh

jax.config.update("jax_num_cpu_devices", 4)
mesh = make_mesh(MeshConfig(), 8)
# Images that differ in their level, so that the statistics of the shares do.
x = jax.random.normal(jax.random.key(0), (8, 4, 6, 16)) + jnp.arange(8.0)[:, None, None, None]
by_image = NamedSharding(mesh, PartitionSpec("data"))
here = NamedSharding(mesh, PartitionSpec())


def layer(kind, train=True):
    return normalization(kind, train, epsilon=1e-5, dtype=jnp.float32, name="norm")


variables = layer("batch").init(jax.random.key(0), x)
variables["params"] = {"scale": jnp.linspace(0.5, 2, 16), "bias": jnp.linspace(-1, 1, 16)}


def run(kind, train, variables, x):
    return layer(kind, train).apply(variables, x, mutable=["batch_stats"])


def compile_on_devices(train):
    step = jax.jit(lambda v, x: run("local", train, v, x), in_shardings=(here, by_image))
    return step.lower(jax.device_put(variables, here), jax.device_put(x, by_image)).compile()


def moves(compiled):
    return len(re.findall(r"= .*? (?:all-\w+|collective-permute|reduce-scatter)\(", compiled.as_text()))


with jax.set_mesh(mesh):
    training, evaluation = compile_on_devices(True), compile_on_devices(False)
    local, updates = training(jax.device_put(variables, here), jax.device_put(x, by_image))
shares = [run("batch", True, variables, x[i : i + 2]) for i in range(0, 8, 2)]
np.savez(
    sys.argv[1],
    local=local,
    shares=jnp.concatenate([output for output, _ in shares]),
    **{"global": run("batch", True, variables, x)[0]},
    alone=run("local", True, variables, x)[0],
    moved=moves(training),
    moved_in_evaluation=moves(evaluation),
    **updates["batch_stats"],
    **{
        f"shares_{name}": jnp.mean(jnp.stack([update["batch_stats"][name] for _, update in shares]), 0)
        for name in ("mean", "var")
    },
)
