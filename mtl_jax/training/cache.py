"""Compiled programs, kept from one run to the next."""

import os
import stat
from pathlib import Path

import jax

from mtl_jax.errors import UserError


def use(directory: str) -> None:
    """Keeps compiled programs in a directory that is the user's alone, since what lies there will be run.

    Args:
        directory: The directory, made if it is not there; empty: nothing is kept. Where JAX has been told of another
            one, as by JAX_COMPILATION_CACHE_DIR, it stays with that.

    Raises:
        UserError: If it belongs to somebody else, or others may write to it, or it cannot be made.
    """
    if not directory or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = Path(directory).expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise UserError(
            f"training.compilation_cache: {path} cannot be made ({error.strerror}); give another directory, or ''"
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"training.compilation_cache: {path} is not yours alone, and what lies there is run; `chmod 700` it, give "
            "another directory, or ''"
        )
    jax.config.update("jax_compilation_cache_dir", str(path))
