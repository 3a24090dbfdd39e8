"""The same steps on one device, on eight with and without split parameters, and in two processes."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtl_jax.config import MeshConfig
from mtl_jax.errors import UserError
from mtl_jax.models.sharing import SHARING
from mtl_jax.training.mesh import make_mesh

ROOT = Path(__file__).parents[2]


def start(**given) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.training.run_on_devices", json.dumps(given)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(output: Path, **given) -> np.lib.npyio.NpzFile:
    process = start(output=str(output), **given)
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return np.load(output)


def assert_same(one, other, scale=1e-4) -> None:
    """Sums over the batch are taken in another order, in float32: 1e-6 relative, which a second step makes larger."""
    assert set(one.files) == set(other.files)
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], rtol=scale, atol=scale / 10, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two steps on one device, by weighting scheme."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}

    def get(scheme):
        if scheme not in found:
            found[scheme] = run(folder / f"{scheme}.npz", devices=1, scheme=scheme, steps=2)
        return found[scheme]

    return get


@pytest.mark.parametrize(
    ("fsdp", "scheme"),
    [(1, "uncertainty"), (4, "uncertainty"), pytest.param(8, "mgda_ub", marks=pytest.mark.slow)],
)
def test_one_device_equals_eight(tmp_path, alone, fsdp, scheme):
    eight = run(tmp_path / "eight.npz", devices=8, fsdp=fsdp, scheme=scheme, steps=2)
    assert_same(alone(scheme), eight)


def test_per_task_gradients_are_split_and_never_gathered(tmp_path, alone):
    """Parameters are gathered for use, K gradients of their shapes are not: the Gramian is formed from shards."""
    eight = run(tmp_path / "eight.npz", devices=8, fsdp=4, scheme="upgrad", steps=2)
    assert_same(alone("upgrad"), eight)
    program = (tmp_path / "eight.hlo").read_text()
    gathered = [
        tuple(map(int, shape.split(",")))
        for result in re.findall(r"= (.*?) all-gather(?:-start)?\(", program)
        for shape in re.findall(r"f32\[([\d,]+)\]", result)
    ]
    assert (3, 3, 96, 96) in gathered  # a kernel, on its way to being used
    tasks = 4
    # What else has four rows are a few numbers.
    assert [shape for shape in gathered if shape[0] == tasks and np.prod(shape[1:]) >= 1024] == []
    assert max(np.prod(shape) for shape in gathered) == 3 * 3 * 96 * 96


@pytest.mark.parametrize("started_by", ["coordinator", pytest.param("slurm", marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path, alone, monkeypatch, started_by):
    """With collectives over the network, each process with half of the clips and four of the devices."""
    expected = alone("upgrad")  # before the environment speaks of several processes
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    output = tmp_path / "two.npz"
    processes = []
    for i in range(2):
        given = {
            "devices": 8,
            "fsdp": 4,
            "scheme": "upgrad",
            "steps": 2,
            "processes": 2,
            "output": str(output),
        }
        if started_by == "coordinator":
            given |= {"coordinator": f"localhost:{port}", "process": i}
        else:  # what `srun` says
            monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
            told = {"JOB_ID": 1, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": i, "LOCALID": i}
            for name, value in (told | {"STEP_NUM_NODES": 1}).items():
                monkeypatch.setenv(f"SLURM_{name}", str(value))
        processes.append(start(**given))
    for process in processes:
        told, _ = process.communicate(timeout=900)
        assert process.returncode == 0, told
    assert_same(expected, np.load(output))


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [name for name in SHARING if name != "hard"])
def test_one_device_equals_eight_for_every_architecture(tmp_path, sharing):
    one = run(tmp_path / "one.npz", devices=1, sharing=sharing)
    eight = run(tmp_path / "eight.npz", devices=8, fsdp=2, sharing=sharing)
    assert set(one.files) == set(eight.files)
    for name in one.files:
        # In a trunk for identity alone a few ReLUs near zero fall on the other side, and the gradient jumps: weights
        # that differ by 1e-6 change single parameters of it by 3e-5, of one for motion by 1e-4.
        distance = np.linalg.norm(one[name] - eight[name])
        assert distance <= 1e-2 * np.linalg.norm(one[name]) + 1e-5, name


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshConfig(data=1000), "mesh: data=1000 and fsdp=1 ask for 1000 devices, 1 are there"),
        (MeshConfig(data=1, fsdp=2), "mesh: data=1 and fsdp=2 ask for 2 devices, 1 are there"),
        (MeshConfig(data=-1, fsdp=-1), "mesh: both data and fsdp are -1"),
        (MeshConfig(fsdp=0), "mesh.fsdp: found 0; expected at least 1"),
    ],
)
def test_meshes_that_cannot_be(mesh, message):
    with pytest.raises(UserError, match=message):
        make_mesh(mesh, 8)
