"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same to TensorBoard."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from mtl_jax.errors import UserError


class MetricWriter:
    """Appends rows of metrics.

    Args:
        workdir: The run's directory.
        from_step: Rows beyond this step, left by a run that was stopped after its last checkpoint, are dropped.
        writes: Whether this process writes; of several, one does.

    Attributes:
        earlier: The rows that were there before.
    """

    def __init__(self, workdir: Path, from_step: int = 0, writes: bool = True):
        self._path = workdir / "metrics.jsonl"
        self.earlier = rows = [row for row in read_metrics(workdir) if row["step"] <= from_step]
        self._writes = writes
        if not writes:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(self._path)
        self._file = self._path.open("a", buffering=1)
        # Not its SummaryWriter, whose thread writes later: it would die of a full disk, and training wait for it.
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        # TensorBoard hides events of this step and later ones that an earlier file holds.
        self._event(from_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row; it is on disk on return.

        Raises:
            UserError: If it cannot be written, as when the disk is full.
        """
        if not self._writes:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._event(step, summary=Summary(value=[_scalar(*item) for item in values.items()]))
            self._board.flush()
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written at step {step} ({error.strerror}); make room and go on with "
                "`mtl-jax train --resume`"
            ) from error

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._board) if self._writes else ():
            with suppress(OSError):  # what was not written has been reported
                file.close()

    def __enter__(self) -> "MetricWriter":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self.close()

    def _event(self, step: int, **what: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **what))


def _scalar(name: str, value: float) -> Summary.Value:
    return Summary.Value(tag=name, simple_value=value)


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
