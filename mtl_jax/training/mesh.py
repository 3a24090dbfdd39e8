"""The devices, as a mesh with named axes, and where arrays lie on it.

A batch is split over all devices, whichever axis they are on. Parameters, and all that has their shapes (optimizer
state, moving average, per-task gradients), are split over the axis `fsdp` and repeated along `data`. XLA gathers a
layer's parameters where they are used and sums gradients into shards again.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mtl_jax.config import MeshConfig
from mtl_jax.errors import UserError
from mtl_jax.structures import Batch

AXES = ("data", "fsdp")

_MIN_SPLIT = 1024
"""Smaller arrays are on every device whole: to gather them would cost more than they take."""


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """Returns the mesh of all devices of all processes.

    Args:
        config: Devices along each axis.
        batch_size: Clips in a global batch, which must divide over all devices.

    Raises:
        UserError: If there are fewer devices than asked for, or the batch does not divide.
    """
    available = jax.device_count()
    sizes = [config.data, config.fsdp]
    for axis, size in zip(AXES, sizes, strict=True):
        if size != -1 and size < 1:
            raise UserError(f"mesh.{axis}: found {size}; expected at least 1, or -1 for all devices left")
    if sizes == [-1, -1]:
        raise UserError("mesh: both data and fsdp are -1; say how many devices one of them has")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(available // -(sizes[0] * sizes[1]), 1)
    number = sizes[0] * sizes[1]
    if number > available or (number < available and jax.process_count() > 1):
        raise UserError(
            f"mesh: data={config.data} and fsdp={config.fsdp} ask for {number} devices, {available} are there; "
            "use -1 for one of them"
        )
    if batch_size % number:
        raise UserError(
            f"data.batch_size: {batch_size} does not divide over {number} devices; choose a multiple of {number}"
        )
    # Neighbours are along fsdp, where most is sent. Explicit axis types refuse the heat map's scatters.
    devices = np.asarray(jax.devices()[:number]).reshape(sizes)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def devices_in_force() -> int:
    """Returns the number of devices of the mesh that `jax.set_mesh` has set; 1 without one."""
    return math.prod(jax.sharding.get_abstract_mesh().shape.values())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what is split by clip: a batch."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def split_state(state: Any, mesh: Mesh) -> Any:
    """Returns the sharding of each array of a training state, of which each device along `fsdp` holds its part.

    An array is split along its longest axis that divides; where there is none, or it is small, it stays whole.

    Args:
        state: Arrays, or their `jax.ShapeDtypeStruct`s.
        mesh: The mesh.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, _split(x.shape, mesh.shape["fsdp"])), state)


@jax.custom_vjp
def gather_parameters(params: Any) -> Any:
    """Returns the parameters whole, for use; their gradients come back in shards.

    Without it the compiler may split the work of a layer by channels instead, and send activations about, which are
    larger. The mesh is the one that `jax.set_mesh` has set; without one, nothing is done.
    """
    return jax.tree.map(lambda x: _constrained(x, whole=True), params)


gather_parameters.defvjp(
    lambda params: (gather_parameters(params), None),
    # Summed whole and then split, which XLA makes one reduce-scatter of; split at once, the backward pass would be.
    lambda _, grads: (jax.tree.map(lambda g: _constrained(_constrained(g, whole=True)), grads),),
)


def constrain_gradients(grads: Any) -> Any:
    """Keeps per-task gradients, each leaf with a leading axis of K, split as their parameters are."""
    return jax.tree.map(jax.vmap(_constrained), grads)


def to_devices(batch: Batch, mesh: Mesh) -> Batch:
    """Places this process's share of a batch on the devices, as part of the global batch."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def place(state: Any, shardings: Any) -> Any:
    """Places a state that each process has made alike on the devices of all processes."""

    def one(x: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        whole = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, state, shardings)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns the arrays whole, on one device of each process; all processes must call it."""
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _constrained(x: jax.Array, whole: bool = False) -> jax.Array:
    """Splits an array of the mesh in force as `split_state` does, or keeps it whole."""
    fsdp = jax.sharding.get_abstract_mesh().shape.get("fsdp", 1)
    if fsdp == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec() if whole else _split(x.shape, fsdp))


def _split(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    if parts == 1 or np.prod(shape, dtype=int) < _MIN_SPLIT:
        return PartitionSpec()
    # The last of several equals: the outputs of a kernel.
    axis = max(
        (axis for axis in range(len(shape)) if shape[axis] % parts == 0),
        key=lambda a: (shape[a], a),
        default=None,
    )
    if axis is None:
        return PartitionSpec()
    return PartitionSpec(*(None,) * axis, "fsdp")
