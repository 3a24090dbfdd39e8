"""Reads experiment files, and what the command line changes in them."""

import runpy
import traceback
from pathlib import Path
from typing import Any

from mtl_jax.config import Config
from mtl_jax.errors import UserError
from mtl_jax.options import named_options


def read_experiment(arguments: list[str]) -> tuple[str | None, list[str], Config]:
    """Returns the experiment's file, if the first argument is one, the other arguments, and its configuration.

    Options of what is chosen by name are in the configuration already.
    """
    experiment = next((a for a in arguments[:1] if not a.startswith("-")), None)
    config = load_experiment(Path(experiment)) if experiment else Config()
    arguments = arguments[1:] if experiment else arguments
    arguments, config = named_options(arguments, config, "weighting", "scheme", "hyperparameters")
    arguments, config = named_options(arguments, config, "tracker", "name", "options")
    arguments, config = named_options(
        arguments, config, "model", "sharing", "sharing_options", "--model.sharing"
    )
    return experiment, arguments, config


def load_experiment(path: Path) -> Config:
    """Returns the `config` that an experiment file defines.

    Raises:
        UserError: If the file is missing, does not run, or defines no `config`.
    """
    config = run_file(path).get("config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: defines no `config` of type mtl_jax.config.Config")
    return config


def run_file(path: Path) -> dict[str, Any]:
    """Returns what a Python file defines.

    Raises:
        UserError: If the file is missing or does not run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such experiment; give a Python file")
    try:
        return runpy.run_path(str(path))
    except UserError:
        raise
    except Exception as error:
        line = next((f":{f.lineno}" for f in _frames(error) if f.filename == str(path)), "")
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error


def _frames(error: Exception) -> list:
    return list(reversed(traceback.extract_tb(error.__traceback__)))
