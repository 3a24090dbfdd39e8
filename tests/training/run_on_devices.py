"""Takes a training step of the tiny experiment on the given CPU devices, and saves what came out.

Arguments: number of devices, file to write, sharing architecture.
"""

import sys

import jax
import numpy as np
import optax

from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state, make_step
from tests.training.conftest import TINY, random_batch, replace

jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))  # before the first use of a device
config = replace(TINY, "model.sharing", sys.argv[3])
mesh = mesh_lib.make_mesh(config.mesh, config.data.batch_size)
assert mesh.size == int(sys.argv[1])
# Plain gradient descent: Adam divides by small numbers and so makes rounding large.
experiment = build_experiment(config, num_classes=2)._replace(optimizer=optax.sgd(1e-2))
state = jax.device_put(init_state(experiment), mesh_lib.replicated(mesh))
everywhere = mesh_lib.replicated(mesh)
step = jax.jit(
    make_step(experiment),
    in_shardings=(everywhere, mesh_lib.split_batch(mesh)),
    out_shardings=everywhere,
    donate_argnums=0,
)
state, metrics = step(state, mesh_lib.to_devices(random_batch(config, 0), mesh))
leaves = jax.tree_util.tree_flatten_with_path(
    {"params": state.params, "stats": state.batch_stats, "metrics": metrics}
)[0]
np.savez(sys.argv[2], **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
