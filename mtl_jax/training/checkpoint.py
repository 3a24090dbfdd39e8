"""Checkpoints of everything a run needs to go on, through Orbax; nothing else in the project knows Orbax.

A run keeps its last two checkpoints, so that a damaged one can be stepped over, and the best one:

    RUN/checkpoints/last/STEP   state, data iterator, configuration, and `digests.json`, of each file
    RUN/checkpoints/best/STEP   the same, at the best validation score
"""

import errno
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mtl_jax import config as config_lib
from mtl_jax.config import Config
from mtl_jax.errors import UserError
from mtl_jax.training.distributed import is_first
from mtl_jax.training.step import TrainState

log = logging.getLogger(__name__)

_DIGESTS = "digests.json"


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        workdir: The run's directory.
    """

    def __init__(self, workdir: Path):
        self._last = _manager(workdir / "checkpoints" / "last", keep=2)
        self._best = _manager(workdir / "checkpoints" / "best", keep=1)

    def save(self, state: TrainState, data: Any, config: Config) -> None:
        """Saves the last checkpoint; returns when it is on disk.

        Raises:
            UserError: If the disk is full or not writable. Earlier checkpoints stay.
        """
        _save(self._last, state, data, config)

    def save_best(self, state: TrainState, data: Any, config: Config) -> None:
        """Saves the best checkpoint in place of the one before; as `save`."""
        _save(self._best, state, data, config)

    def restore(self, like: TrainState, best: bool = False) -> tuple[TrainState, Any]:
        """Restores the newest checkpoint that can be read, warning of any that cannot.

        Args:
            like: A state of this run's shapes, or their `jax.ShapeDtypeStruct`s with shardings; the devices may differ
                from those that saved it.
            best: Take the best checkpoint, where there is one.

        Returns:
            The state, and the state of the data iterator.

        Raises:
            UserError: If there is no checkpoint, none can be read, or it is of another model.
        """
        candidates = [(self._last, step) for step in sorted(self._last.all_steps(), reverse=True)]
        if best:
            candidates = [
                (self._best, step) for step in sorted(self._best.all_steps(), reverse=True)
            ] + candidates
        if not candidates:
            raise UserError(
                f"{self._last.directory}: no checkpoint; train first, or give the directory of a run"
            )
        for manager, step in candidates:
            path = manager.directory / str(step)
            try:
                _verify(Path(path))
                _check_shapes(manager, step, like, path)
                restored = manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
                    ),
                )
            except UserError:
                raise
            except (
                Exception
            ) as error:  # Orbax, TensorStore and JSON each have errors of their own for damaged files.
                log.warning("%s: damaged (%s); trying the checkpoint before", path, _first_line(error))
                continue
            return restored.state, restored.data
        raise UserError(
            f"{self._last.directory}: no checkpoint can be read; train again into another directory"
        )

    def steps(self) -> list[int]:
        """Returns the steps of the last checkpoints, in order."""
        return sorted(self._last.all_steps())

    def close(self) -> None:
        """Waits for what is under way and lets go of the directory."""
        self._last.close()
        self._best.close()

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


def _manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers)


def _save(manager: ocp.CheckpointManager, state: TrainState, data: Any, config: Config) -> None:
    step = int(state.step)
    full = UserError(
        f"{manager.directory}: the disk is full at step {step}; earlier checkpoints are intact, make room and go on "
        "with `mtl-jax train --resume`"
    )
    # Orbax, when it runs out of room half way, prints what each of its threads thinks of that. The megabyte is for all
    # that a checkpoint has beside the arrays.
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**20
    if shutil.disk_usage(manager.directory).free < needed:
        raise full
    try:
        if step in manager.all_steps():
            manager.delete(step)  # damaged: the run came from before it, and is here again
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data),
                config=ocp.args.JsonSave(json.loads(config_lib.to_json(config))),
            ),
        )
        manager.wait_until_finished()
        if is_first():
            path = Path(manager.directory) / str(step)
            temporary = path / f"{_DIGESTS}.tmp"
            temporary.write_text(json.dumps(_digests(path), indent=1) + "\n")
            temporary.replace(path / _DIGESTS)
    except Exception as error:
        # TensorStore reports a full disk as text, not as an OSError.
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise full from error
        raise


def _digests(checkpoint: Path) -> dict[str, str]:
    """Returns a digest of each file of a checkpoint; TensorStore has none of its own for arrays."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(_DIGESTS):
            with path.open("rb") as file:
                digests[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "blake2b").hexdigest()
    return digests


def _verify(checkpoint: Path) -> None:
    """Raises a ValueError that names the first file that is not as it was saved."""
    path = checkpoint / _DIGESTS
    if not path.exists():  # killed after the checkpoint was complete, before its digests were
        return
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{_DIGESTS} cannot be read") from error
    found = _digests(checkpoint)
    for name, digest in saved.items():
        if found.get(name) != digest:
            raise ValueError(f"{name} is {'not as it was saved' if name in found else 'missing'}")


def _check_shapes(manager: ocp.CheckpointManager, step: int, like: TrainState, path: Any) -> None:
    saved = manager.item_metadata(step)["state"]
    saved = {jax.tree_util.keystr(k, simple=True, separator="/"): tuple(v.shape) for k, v in _leaves(saved)}
    wanted = {jax.tree_util.keystr(k, simple=True, separator="/"): tuple(v.shape) for k, v in _leaves(like)}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            found, expected = (tree.get(name, "nothing") for tree in (saved, wanted))
            raise UserError(
                f"{path}: a checkpoint of another model: {name} is {found}, this configuration has {expected}; use the "
                "config.json it was trained with"
            )


def _leaves(tree: Any) -> list:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
