"""The directory of a run: what it is of, and that only one run writes into it.

RUN/config.json    the configuration
RUN/classes.json   names of the classes
RUN/lock           held while a run writes
"""

import dataclasses
import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtl_jax import config as config_lib
from mtl_jax.config import Config
from mtl_jax.errors import UserError
from mtl_jax.training.distributed import is_first


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps the directory for this run; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: If another run has it, or it cannot be written to.
    """
    if not is_first():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "lock").open("a")
    except OSError as error:
        raise _not_writable(workdir, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{workdir}: another run is writing here; wait for it, or choose another --workdir"
            ) from error
        yield


def begin(workdir: Path, config: Config, class_names: Sequence[str], steps: Sequence[int]) -> None:
    """Writes what a new run is of: its configuration and the names of its classes.

    Args:
        workdir: The directory.
        config: The configuration.
        class_names: Names of the classes.
        steps: Checkpoints that are there.

    Raises:
        UserError: If there is a run already, or one of another configuration was begun, or it cannot be written.
    """
    if (workdir / "config.json").is_file() and (before := read_config(workdir)) != config:
        raise UserError(
            f"{workdir}: has a run of another configuration: {difference(before, config)}; choose another --workdir, "
            f"or go on with that one by `mtl-jax train --resume {workdir}`"
        )
    if steps:
        raise UserError(
            f"{workdir}: there is a run already, at step {steps[-1]}; go on with `mtl-jax train --resume {workdir}`, "
            "or choose another --workdir"
        )
    if not is_first():
        return
    try:
        # The configuration comes last and at once: where there is one, there is a run.
        (workdir / "classes.json").write_text(json.dumps(list(class_names)) + "\n")
        temporary = workdir / "config.json.tmp"
        temporary.write_text(config_lib.to_json(config))
        temporary.replace(workdir / "config.json")
    except OSError as error:
        raise _not_writable(workdir, error) from error


def difference(before: Config, after: Config) -> str:
    """Returns in words where two configurations differ: `training.steps is 10 there, 20 here; ...`."""
    there, here = (flat(dataclasses.asdict(config)) for config in (before, after))
    keys = [key for key in dict.fromkeys([*there, *here]) if there.get(key) != here.get(key)]
    return ", ".join(
        f"{key} is {there.get(key, 'not set')!r} there, {here.get(key, 'not set')!r} here" for key in keys
    )


def read_config(workdir: Path) -> Config:
    """Reads a run's configuration.

    Raises:
        UserError: If this is not a run, or a key is unknown or a value of the wrong type.
    """
    path = workdir / "config.json"
    return config_lib.from_json(_read(path), where=str(path))


def read_classes(workdir: Path) -> list[str]:
    """Reads the names of a run's classes; errors as `read_config`."""
    path = workdir / "classes.json"
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); restore the file") from error


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: not found; give the directory of a run, as was given to --workdir")
    return path.read_text()


def _not_writable(workdir: Path, error: OSError) -> UserError:
    return UserError(f"{workdir}: cannot be written ({error.strerror}); choose another --workdir")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dictionaries as one, with dots between the keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
