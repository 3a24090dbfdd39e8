"""Whole runs from the command line, for tests."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

STEPS = 12
EXPERIMENT = """
from mtl_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig

config = Config(
    data=DataConfig(
        dataset="moving_objects/tiny", data_dir={data_dir!r}, image_size=(64, 64), batch_size=4, max_objects=8
    ),
    model=ModelConfig(backbone="tiny", neck_channels=8, head_channels=8, embedding_dim=8),
    optimizer=OptimizerConfig(warmup_steps=2),
    training=TrainingConfig(steps=12, log_every=1, diagnose_every=5, checkpoint_every=3),
)
"""


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "mtl_jax.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def mtl_jax(*arguments: object, status: int = 0) -> str:
    """Runs the command line and returns what it wrote to standard error."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, output + errors
    return errors


def wait_for_checkpoint(run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "last" / str(step)).is_dir():
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def final_arrays(run: Path) -> dict[str, np.ndarray]:
    import jax

    checkpointer = ocp.StandardCheckpointer()
    path = (run / "checkpoints" / "last" / str(STEPS) / "state").absolute()
    # The runs had a device for each core; this process has one.
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        dict(checkpointer.metadata(path).item_metadata),
    )
    state = checkpointer.restore(path, like)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_flatten_with_path(state)[0]}


def assert_same_end(run: Path, other: Path) -> None:
    arrays, others = final_arrays(run), final_arrays(other)
    assert arrays.keys() == others.keys()
    assert [name for name in arrays if arrays[name].tobytes() != others[name].tobytes()] == []
    rows, other_rows = ([json.loads(line) for line in (r / "metrics.jsonl").open()] for r in (run, other))
    for row in (*rows, *other_rows):
        for key in [key for key in row if key.startswith(("steps_per_second", "time/", "memory/"))]:
            del row[key]
    assert rows == other_rows
