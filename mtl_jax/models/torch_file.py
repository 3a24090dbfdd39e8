"""Reads the tensors of a PyTorch file without PyTorch, and without running what a pickle may ask to run."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mtl_jax.errors import UserError

# What `torch.save` writes first in its format from before version 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


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
    """Returns the named tensors of a state dictionary written by `torch.save` before version 1.6.

    Such a file is a sequence of pickles (magic number, protocol, sizes of the machine's types, the dictionary, the
    order of the storages) and then the storages. Only the classes that make up a dictionary of tensors are accepted.

    Args:
        path: The `.pth` file.

    Raises:
        UserError: The file holds something else than tensors, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path}: is damaged or no PyTorch state file ({error}); install its package anew"
        ) from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _TensorUnpickler(file).load() != _MAGIC:
        raise UserError("is not in the format of PyTorch before 1.6; install its package anew")
    _protocol, _machine, state, keys = (_TensorUnpickler(file).load() for _ in range(4))
    lengths = {tensor.storage.key: tensor.storage for tensor in state.values()}
    storages = {key: _read_storage(file, lengths[key]) for key in keys}
    return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in state.items()}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise UserError(f"asks for {module}.{name}, which is no tensor; refused. Install its package anew")

    def persistent_load(self, pid: tuple) -> _Storage:
        _kind, dtype, key, _device, length, _view = pid
        return _Storage(key, dtype, length)


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    (length,) = struct.unpack("<q", file.read(8))
    if length != storage.length:
        raise ValueError(f"storage of {length} elements where {storage.length} were announced")
    return np.frombuffer(file.read(length * storage.dtype.itemsize), storage.dtype, count=length)


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if not 0 <= last < storage.size or min((tensor.offset, *tensor.strides)) < 0:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
