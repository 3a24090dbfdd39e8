"""Reads the tensors of a PyTorch file without PyTorch, and without running what a pickle may ask to run."""

import functools
import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtl_jax.errors import UserError

# What `torch.save` writes first in its format from before version 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

_STATES = ("state_dict", "model")
"""Keys under which training scripts keep the network's state beside other things."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A tensor whose storage has not been read yet; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the named tensors of a state dictionary written by `torch.save`.

    Since version 1.6 such a file is a zip archive of a pickle and of the storages that it refers to. Before, it was a
    sequence of pickles (magic number, protocol, sizes of the machine's types, the dictionary, the order of the
    storages) and then the storages. Only the classes that make up a dictionary of tensors are accepted.

    Args:
        path: The `.pth` file.

    Raises:
        UserError: The file is missing, holds something else than tensors, or is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a PyTorch state file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        with path.open("rb") as file:
            return _read_legacy(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: is damaged or no PyTorch state file ({reason}); download it or install its package anew"
        ) from error


def _read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    # All lies in one folder, named after the file as it was first called.
    (pickled,) = (name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"])
    folder = pickled.split("/")[0]
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("written on a machine of another byte order")

    def read(storage: _Storage) -> np.ndarray:
        return _as_array(archive.read(f"{folder}/data/{storage.key}"), storage)

    return _tensors(_TensorUnpickler(io.BytesIO(archive.read(pickled))).load(), read)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    if _TensorUnpickler(file).load() != _MAGIC:
        raise ValueError("it starts with another number")
    _protocol, _machine, state, keys = (_TensorUnpickler(file).load() for _ in range(4))
    # The storages follow one another, so they are read in their order, and kept.
    lengths = {tensor.storage.key: tensor.storage for tensor in _state(state).values()}
    contents = {key: _read_storage(file, lengths[key]) for key in keys}
    return _tensors(state, lambda storage: _as_array(contents[storage.key], storage))


def _read_storage(file: BinaryIO, storage: _Storage) -> bytes:
    (length,) = struct.unpack("<q", file.read(8))
    if length != storage.length:
        raise ValueError(f"storage of {length} elements where {storage.length} were announced")
    return file.read(length * storage.dtype.itemsize)


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise UserError(
            f"asks for {module}.{name}, which is no tensor; refused. Get the file from its authors anew, or save the "
            "network's state_dict alone"
        )

    def persistent_load(self, pid: tuple) -> _Storage:
        _kind, dtype, key, _device, length, *_view = pid
        return _Storage(key, dtype, length)


def _state(state: Any) -> dict[str, _Tensor]:
    """Returns the tensors of a state dictionary, or of the one that is among other things in a dictionary."""
    inner = next((state[key] for key in _STATES if isinstance(state.get(key), dict)), state)
    if other := [name for name, value in inner.items() if not isinstance(value, _Tensor)]:
        raise UserError(f"{other[0]!r} is no tensor; save the network's state_dict alone")
    return inner


def _tensors(state: Any, read: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    read = functools.cache(read)  # tensors may share a storage
    return {name: _view(tensor, read(tensor.storage)) for name, tensor in _state(state).items()}


def _as_array(content: bytes, storage: _Storage) -> np.ndarray:
    if len(content) != storage.length * storage.dtype.itemsize:
        raise ValueError(f"{len(content)} bytes where {storage.length} elements were announced")
    return np.frombuffer(content, storage.dtype)


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    within = 0 <= last < storage.size and min((tensor.offset, *tensor.strides)) >= 0
    if not within or math.prod(tensor.shape) > storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
