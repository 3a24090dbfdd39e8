"""The devices, as a mesh with named axes, and where arrays lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mtl_jax.config import MeshConfig
from mtl_jax.errors import UserError
from mtl_jax.structures import Batch


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """Returns the mesh of all devices.

    Args:
        config: Devices along each axis.
        batch_size: Clips in a global batch, which must divide over the axis `data`.

    Raises:
        UserError: If there are fewer devices than asked for, or the batch does not divide.
    """
    available = jax.device_count()
    size = available if config.data == -1 else config.data
    if not 1 <= size <= available:
        raise UserError(
            f"mesh.data: asks for {config.data} devices, {available} are there; use -1 for all of them"
        )
    if batch_size % size:
        raise UserError(
            f"data.batch_size: {batch_size} does not divide over {size} devices; choose a multiple of {size}"
        )
    # Explicit axis types refuse the heat map's scatters.
    return Mesh(np.asarray(jax.devices()[:size]), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: the training state."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what is split by clip: a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_devices(batch: Batch, mesh: Mesh) -> Batch:
    """Places this process's share of a batch on the devices, as part of the global batch."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
