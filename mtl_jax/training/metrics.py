"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same to TensorBoard."""

import json
from pathlib import Path
from typing import Any


class MetricWriter:
    """Appends rows of metrics.

    Args:
        workdir: The run's directory.
        from_step: Rows beyond this step, left by a run that was stopped after its last checkpoint, are dropped.

    Attributes:
        earlier: The rows that were there before.
    """

    def __init__(self, workdir: Path, from_step: int = 0):
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        self.earlier = rows = [row for row in read_metrics(workdir) if row["step"] <= from_step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(self._path)
        self._file = self._path.open("a", buffering=1)
        # TensorBoard hides events of later steps that were written before `purge_step`.
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered."""
        self._file.close()
        self._board.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's `metrics.jsonl`, without a last line that was cut short; none if there is no file."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
