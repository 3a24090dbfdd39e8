"""Files of PyTorch: read exactly in both formats, and never able to run anything."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.errors import UserError
from mtl_jax.models.torch_file import read_tensors
from tests.models.published import FOLDER

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "training.pth"])
def test_every_type_of_tensor_is_read(name):
    tensors = read_tensors(FOLDER / name)
    expected = np.arange(6).reshape(2, 3)
    for dtype in DTYPES:
        assert tensors[dtype].dtype == dtype
        np.testing.assert_array_equal(tensors[dtype], expected.astype(dtype))
    assert tensors["bfloat16"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(tensors["bfloat16"].astype(np.float32), expected)
    np.testing.assert_array_equal(tensors["transposed"], expected.T)
    np.testing.assert_array_equal(tensors["part"], expected[1:, 1:])
    np.testing.assert_array_equal(tensors["scalar"], 7)
    np.testing.assert_array_equal(tensors["parameter"], [1, 1])
    assert len(tensors) == len(DTYPES) + 5


class _Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def _write_legacy(path: Path, state: object) -> None:
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}, state, []):
        pickle.dump(part, buffer, protocol=2)
    path.write_bytes(buffer.getvalue())


def _write_zip(path: Path, state: object) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(state, protocol=2))


@pytest.mark.parametrize("write", [_write_legacy, _write_zip])
def test_a_file_that_runs_commands_is_refused_and_runs_nothing(write, tmp_path):
    write(tmp_path / "evil.pth", {"weight": _Command(tmp_path / "made")})
    with pytest.raises(UserError, match=r"evil.pth.*mkdir"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("write", [_write_legacy, _write_zip])
@pytest.mark.parametrize("state", [{"weight": 3}, {"state_dict": {"weight": [1.0]}}, [1]])
def test_what_is_no_dictionary_of_tensors_is_refused(write, state, tmp_path):
    write(tmp_path / "other.pth", state)
    with pytest.raises(UserError, match=r"other\.pth"):
        read_tensors(tmp_path / "other.pth")


def _rewrite(path: Path, change) -> None:
    with zipfile.ZipFile(FOLDER / "zip.pth") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if (content := change(name, source.read(name))) is not None:
                target.writestr(name, content)


def test_a_file_of_pytorchs_that_was_tampered_with_runs_nothing(tmp_path):
    def tamper(content: bytes) -> bytes:
        return content.replace(b"ctorch\nIntStorage\n", b"cos\nsystem\n")

    _rewrite(tmp_path / "zip.pth", lambda _, content: tamper(content))
    (tmp_path / "legacy.pth").write_bytes(tamper((FOLDER / "legacy.pth").read_bytes()))
    for name in ("zip.pth", "legacy.pth"):
        with pytest.raises(UserError, match=rf"{name}: asks for os\.system"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_damaged_file_is_refused_in_one_line(name, tmp_path):
    content = (FOLDER / name).read_bytes()
    damaged = tmp_path / "damaged.pth"
    for changed in (
        content[: len(content) // 2],
        content[:100],
        content[:-40],
        content[40:],
        b"",
        b"<html>not found",
    ):
        damaged.write_bytes(changed)
        with pytest.raises(UserError, match=r"damaged\.pth") as error:
            read_tensors(damaged)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: content[:-1] if name.endswith("data/1") else content,
        lambda name, content: None if name.endswith("data/1") else content,
        lambda name, content: b"big" if name.endswith("byteorder") else content,
        lambda name, content: None if name.endswith("data.pkl") else content,
        # (2, 3) becomes (2, 9): beyond the storage.
        lambda name, content: content.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"),
    ],
    ids=["short storage", "no storage", "byte order", "no pickle", "beyond storage"],
)
def test_a_damaged_archive_is_refused(change, tmp_path):
    _rewrite(tmp_path / "same.pth", lambda name, content: content)
    assert len(read_tensors(tmp_path / "same.pth")) == len(DTYPES) + 5
    _rewrite(tmp_path / "damaged.pth", change)
    with pytest.raises(UserError, match=r"damaged\.pth"):
        read_tensors(tmp_path / "damaged.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.pth: no such file"):
        read_tensors(tmp_path / "none.pth")
