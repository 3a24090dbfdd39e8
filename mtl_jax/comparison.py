"""Two runs side by side."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mtl_jax.training.metrics import read_metrics
from mtl_jax.training.workdir import flat, read_config


def side_by_side(first: Path, second: Path, everything: bool = False) -> list[dict[str, Any]]:
    """Returns a row for each setting and each score in which two runs differ.

    Args:
        first: Directory of a run.
        second: Directory of another one.
        everything: Also what is alike.

    Returns:
        Rows with the name of a setting or score under the empty key, and its values under the directories' names.

    Raises:
        UserError: If one of them is not a run.
    """
    settings, scores = [], []
    for run in (first, second):
        settings.append(
            {key: _plain(value) for key, value in flat(dataclasses.asdict(read_config(run))).items()}
        )
        scores.append(_scores(run))
    rows = []
    for values in (settings, scores):
        for key in dict.fromkeys([*values[0], *values[1]]):
            found = [value.get(key) for value in values]
            if everything or found[0] != found[1]:
                rows.append({"": key, str(first): found[0], str(second): found[1]})
    return rows


def _scores(run: Path) -> dict[str, Any]:
    """Returns a run's scores: those on the test split, where it is of a sweep, else what the last metrics say."""
    path = run / "result.json"
    if path.is_file():
        result = json.loads(path.read_text())
        return {f"test {name}": value for name, value in result["scores"].items()} | {
            "ms per step": result["ms_per_step"]
        }
    last: dict[str, Any] = {}
    for row in read_metrics(run):
        last |= {key: value for key, value in row.items() if key.startswith(("validation/", "loss/", "step"))}
    return last


def _plain(value: Any) -> Any:
    """Returns what a table can show: numbers as they are, all else as text."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
