"""Forms Gramians and a combined gradient on eight CPU devices; prints what crossed between them, and the difference."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mtl_jax import weighting

jax.config.update("jax_num_cpu_devices", 8)
mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
K = 3


def place(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


def collectives(compiled):
    """Returns kind and size, in numbers, of each array that an operation moves between devices."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})\(", compiled.as_text())
    return [
        (kind, int(np.prod([int(n) for n in shape.split(",") if n])))
        for result, kind in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", result)
    ]


# Sharded parameters: on the last axis, on the first, on one in the middle.
keys = jax.random.split(jax.random.key(0), 4)
grads = {
    "a": place(jax.random.normal(keys[0], (K, 24, 40)), None, None, "devices"),
    "b": place(jax.random.normal(keys[1], (K, 16, 5)), None, "devices", None),
    "c": place(jax.random.normal(keys[2], (K, 3, 8, 7)), None, None, "devices", None),
    "d": place(jax.random.normal(keys[3], (K, 8)), None, "devices"),
}
compiled = jax.jit(weighting.gramian).lower(grads).compile()
here = jax.tree.map(np.asarray, grads)
gramian_error = float(jnp.max(jnp.abs(compiled(grads) - weighting.gramian(here))))

# A sharded batch, and parameters on every device.
x, y = jax.random.normal(keys[0], (64, 6)), jax.random.normal(keys[1], (64, K))
params = {"w": jax.random.normal(keys[2], (6, 5)), "v": jax.random.normal(keys[3], (5, K))}


def losses_of(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2, axis=0)


tx = weighting.cagrad(num_tasks=K)


def update(params, x, y):
    losses, grads = weighting.per_task_value_and_grad(losses_of)(params, x, y)
    return tx.update(grads, tx.init(params), losses=losses)[0]


alone = jax.jit(update)(params, x, y)
together = jax.jit(update)(jax.tree.map(place, params), place(x, "devices"), place(y, "devices"))
difference = max(float(jnp.max(jnp.abs(alone[k] - np.asarray(together[k])))) for k in alone)
print(json.dumps({"crossed": collectives(compiled), "gramian": gramian_error, "update": difference}))
