"""One run of a sweep, from its configuration to its scores."""

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtl_jax import config as config_lib
from mtl_jax.errors import UserError
from mtl_jax.evaluation.model import evaluate_state, summary
from mtl_jax.training import cache, cpu
from mtl_jax.training.loop import train
from mtl_jax.training.metrics import read_metrics

_PACKAGES = ("mtl-jax", "jax", "flax", "optax", "grain", "numpy")


def run(workdir: Path) -> dict[str, Any]:
    """Trains and evaluates what `trial.json` describes, or goes on with it, and writes `result.json`.

    Args:
        workdir: Directory of the trial.

    Returns:
        What is in `result.json`: `scores` on the test split; `losses` and `weights`, means over the last tenth of
        training; `ms_per_step`, `seconds`, `parameters`; and of what: `name`, `seed`, `device`, `versions`, `revision`.

    Raises:
        UserError: If something in the configuration is wrong.
        Interrupted: After SIGINT or SIGTERM.
    """
    path = workdir / "trial.json"
    if not path.is_file():
        raise UserError(f"{path}: not found; `mtl-jax sweep` writes it")
    config = config_lib.from_json(path.read_text(), where=str(path))
    (workdir / "failed.txt").unlink(missing_ok=True)
    cache.use(config.training.compilation_cache)
    cpu.prepare(config.data.batch_size)
    begin = time.perf_counter()

    def evaluate(experiment: Any, state: Any) -> dict[str, float]:
        return summary(evaluate_state(experiment, state, "validation", workdir / "evaluation" / "validation"))

    resume = (workdir / "config.json").is_file()
    experiment, state = train(config, workdir, resume=resume, evaluate=evaluate)
    scores = summary(evaluate_state(experiment, state, "test", workdir / "evaluation" / "test"))
    rows = [row for row in read_metrics(workdir) if "loss/total" in row]
    tail = rows[-max(len(rows) // 10, 1) :]
    times = [row["time/step_ms"] for row in rows if "time/step_ms" in row]

    def means(part: str) -> dict[str, float]:
        return {
            task: float(np.mean([row[f"{part}/{task}"] for row in tail]))
            for task in config.tasks
            if f"{part}/{task}" in tail[-1]
        }

    result = {
        "name": config.name,
        "seed": config.training.seed,
        "scores": scores,
        "losses": means("loss"),
        "weights": means("weight"),
        "ms_per_step": float(np.median(times)) if times else None,
        "seconds": time.perf_counter() - begin,
        "resumed": resume,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params["model"])),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "revision": _revision(),
    }
    temporary = workdir / "result.json.tmp"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(workdir / "result.json")
    return result


def _revision() -> str | None:
    """Returns the commit of the code where it lies in a repository, with a plus where it was changed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
