"""Takes training steps of the tiny experiment on the given CPU devices, and saves what came out.

Argument: a JSON object with `devices`, `output` and, as far as they are not the default, `fsdp`, `sharing`, `scheme`,
`gradients`, `accumulate` and `steps`; for one of several processes `processes` and, if nothing else tells,
`coordinator` and `process`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from mtl_jax.config import Launch
from mtl_jax.training import distributed
from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state, make_step
from tests.training.conftest import TINY, random_batch, replace

given = json.loads(sys.argv[1])
processes = given.get("processes", 1)
jax.config.update("jax_num_cpu_devices", given["devices"] // processes)  # before the first use of a device
by_hand = "coordinator" in given
distributed.start(Launch(given["coordinator"], processes, given["process"]) if by_hand else Launch())
config = replace(TINY, "model.sharing", given.get("sharing", "hard"))
config = replace(config, "weighting.scheme", given.get("scheme", "uncertainty"))
config = replace(config, "weighting.gradients", given.get("gradients", "auto"))
config = replace(config, "training.accumulate", given.get("accumulate", 1))
config = replace(config, "mesh.fsdp", given.get("fsdp", 1))
mesh = mesh_lib.make_mesh(config.mesh, config.data.batch_size)
assert mesh.size == given["devices"]
# Plain gradient descent: Adam divides by small numbers and so makes rounding large.
experiment = build_experiment(config, num_classes=2)._replace(optimizer=optax.sgd(1e-2, momentum=0.9))
state = init_state(experiment)
as_split, everywhere = mesh_lib.split_state(state, mesh), mesh_lib.replicated(mesh)
state = mesh_lib.place(state, as_split)
# A process has a part of each batch, in order, as the pipeline gives them out.
size = config.data.batch_size // processes
share = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
step = jax.jit(
    make_step(experiment),
    in_shardings=(as_split, mesh_lib.split_batch(mesh)),
    out_shardings=(as_split, everywhere),
    donate_argnums=0,
)
with jax.set_mesh(mesh):
    for seed in range(given.get("steps", 1)):
        batch = jax.tree.map(lambda x: x[share], random_batch(config, seed))
        batch = mesh_lib.to_devices(batch, mesh)
        if seed == 0:
            compiled = step.lower(state, batch).compile()
        state, metrics = compiled(state, batch)
found = {"params": state.params, "stats": state.batch_stats, "average": state.average, "metrics": metrics}
found = mesh_lib.gather(found, mesh)
if distributed.is_first():
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    np.savez(given["output"], **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
    Path(given["output"]).with_suffix(".hlo").write_text(compiled.as_text())
