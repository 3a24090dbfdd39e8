"""Text files of the MOTChallenge: `seqinfo.ini`, `gt.txt`, `det.txt` and results.

A row is `frame,id,left,top,width,height[,confidence[,class,visibility]]`, where frames and pixels count from
1; here boxes become `(x0, y0, x1, y1)` with `(0, 0)` at the outer corner of the top left pixel, so `x0 = left
- 1`.

Two dialects share the name `gt.txt`. Since MOT16 columns 8 and 9 are the class (1 to 13) and the visibility.
In MOT15 there are ten columns, of which the last three are positions in the world, or -1. The number of
columns of a *file* decides: 8 or 9 are MOT16's unless column 8 is -1 throughout; in all other files every
object is a fully visible pedestrian (class 1, visibility 1).
"""

import configparser
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from mtl_jax.errors import UserError

_Number = TypeVar("_Number", int, float)

NUM_CLASSES = 13
"""MOTChallenge classes are numbered from 1 to 13; 1 is the pedestrian."""


class SequenceInfo(NamedTuple):
    """What `seqinfo.ini` tells about a sequence.

    Attributes:
        name: Name of the sequence.
        image_dir: Folder of the frames, relative to the sequence's.
        frame_rate: Frames per second.
        length: Number of frames.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        image_extension: Suffix of the frames' names, with the dot.
    """

    name: str
    image_dir: str
    frame_rate: float
    length: int
    width: int
    height: int
    image_extension: str


class MotRows(NamedTuple):
    """The rows of a MOTChallenge text file, in the order of the file.

    Attributes:
        frames: Frame number, from 1.
        track_ids: Identity; -1 where there is none.
        boxes: Boxes in pixels, `(x0, y0, x1, y1)` from 0.
        confidences: Score of a detection or result; in ground truth 0 says that the row is to be ignored.
        classes: MOTChallenge class number, from 1; -1 where the file has none.
        visibility: Visible fraction, 0 to 1.
    """

    frames: Int[np.ndarray, "rows"]
    track_ids: Int[np.ndarray, "rows"]
    boxes: Float[np.ndarray, "rows 4"]
    confidences: Float[np.ndarray, "rows"]
    classes: Int[np.ndarray, "rows"]
    visibility: Float[np.ndarray, "rows"]


def select_rows(rows: MotRows, keep: np.ndarray) -> MotRows:
    """Returns the rows picked by a mask or by indices."""
    return MotRows(*(column[keep] for column in rows))


def read_seqinfo(path: str | os.PathLike) -> SequenceInfo:
    """Reads `seqinfo.ini`.

    Args:
        path: The file, or the sequence's folder.

    Raises:
        UserError: The file is missing, or a key is missing or wrong.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "seqinfo.ini"
    if not path.is_file():
        raise UserError(
            f"{path}: not found; a sequence needs a seqinfo.ini with frameRate, seqLength, imWidth, imHeight"
        )
    text = _read_text(path)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or getattr(error, "errors", [(1, "")])[0][0]
        raise UserError(f"{path}:{line}: not a `[Sequence]` section of `key=value` lines") from None
    if not parser.has_section("Sequence"):
        raise UserError(f"{path}:1: section [Sequence] is missing")
    section = parser["Sequence"]

    def number(key: str, convert: Callable[[str], _Number]) -> _Number:
        found = section.get(key)
        if found is None:
            raise UserError(f"{path}: key {key} is missing from [Sequence]")
        try:
            value = convert(found)
            if not 0 < value < float("inf"):
                raise ValueError
        except ValueError:
            line = next(
                i for i, row in enumerate(text.splitlines(), 1) if row.lower().startswith(key.lower())
            )
            kind = "a positive whole number" if convert is int else "a positive number"
            raise UserError(f"{path}:{line}: {key} is {found!r}; expected {kind}") from None
        return value

    return SequenceInfo(
        name=section.get("name", path.parent.name),
        image_dir=section.get("imDir", "img1"),
        frame_rate=number("frameRate", float),
        length=number("seqLength", int),
        width=number("imWidth", int),
        height=number("imHeight", int),
        image_extension=section.get("imExt", ".jpg"),
    )


def read_ground_truth(
    path: str | os.PathLike, info: SequenceInfo | None = None, warn: Callable[[str], object] = warnings.warn
) -> MotRows:
    """Reads `gt.txt`; an empty file is a sequence without objects.

    Boxes may reach beyond the image: ground truth marks the whole extent of an object. Those wholly outside
    are dropped; `warn` is told how many there were of both.

    Args:
        path: The file.
        info: The sequence, to check frame numbers and boxes against.
        warn: Called with a line of text about what was mended.

    Raises:
        UserError: The file is missing or wrong; names the first wrong line and says how many more there are.
    """
    rows, lines = _read_rows(path, with_classes=True)
    problems = _check(rows, lines, info)
    problems += [
        (lines[i], f"track id is {rows.track_ids[i]}; expected 0 or more, or -1 where unknown")
        for i in np.flatnonzero(rows.track_ids < -1)
    ]
    problems += _duplicates(rows, lines)
    _raise_first(path, problems)
    if info is None:
        return rows
    x0, y0, x1, y1 = rows.boxes.T
    outside = (x1 <= 0) | (y1 <= 0) | (x0 >= info.width) | (y0 >= info.height)
    beyond = ~outside & ((x0 < 0) | (y0 < 0) | (x1 > info.width) | (y1 > info.height))
    for found, what in (
        (beyond, "reaching beyond the image kept whole"),
        (outside, "outside the image dropped"),
    ):
        if found.any():
            first = lines[np.flatnonzero(found)[0]]
            warn(f"{path}: {found.sum()} boxes {what} (first in line {first})")
    return select_rows(rows, ~outside)


def read_detections(
    path: str | os.PathLike, info: SequenceInfo | None = None, warn: Callable[[str], None] = warnings.warn
) -> MotRows:
    """Reads `det.txt`: boxes with a score; identities and classes are -1.

    Args:
        path: The file.
        info: The sequence, to check frame numbers against.
        warn: Told, once each with a count, of identities, which are passed over, of scores that are not between 0 and
            1, which are brought there, and of lines that are not in order of frames, which are put there.

    Raises:
        UserError: The file is missing or wrong.
    """
    rows, lines = _read_rows(path, with_classes=False)
    _raise_first(path, _check(rows, lines, info))
    scores = rows.confidences
    for found, what in (
        (rows.track_ids != -1, "identities (column 2) passed over; a detection has -1"),
        ((scores < 0) | (scores > 1), "scores (column 7) outside 0 to 1 brought there"),
        (
            np.diff(rows.frames, prepend=0) < 0,
            "frames (column 1) smaller than in the line before put in order",
        ),
    ):
        if found.any():
            warn(f"{path}: {found.sum()} {what} (first in line {lines[np.flatnonzero(found)[0]]})")
    rows = select_rows(rows, np.argsort(rows.frames, kind="stable"))
    return rows._replace(
        track_ids=np.full_like(rows.track_ids, -1), confidences=np.clip(rows.confidences, 0, 1)
    )


def read_results(path: str | os.PathLike, info: SequenceInfo | None = None) -> MotRows:
    """Reads a tracker's result file.

    Args:
        path: The file.
        info: The sequence, to check frame numbers against.

    Raises:
        UserError: The file is missing or wrong, or has an identity twice in a frame.
    """
    rows, lines = _read_rows(path, with_classes=False)
    _raise_first(path, _check(rows, lines, info) + _duplicates(rows, lines))
    return rows


def write_results(path: str | os.PathLike, rows: MotRows) -> None:
    """Writes tracks as a MOTChallenge result file; the file appears whole or not at all."""
    path = Path(path)
    columns = (rows.frames, rows.track_ids, rows.boxes, rows.confidences)
    text = "".join(
        f"{frame},{track_id},{x0 + 1:.3f},{y0 + 1:.3f},{x1 - x0:.3f},{y1 - y0:.3f},{score:.4f},-1,-1,-1\n"
        for frame, track_id, (x0, y0, x1, y1), score in zip(*columns, strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


_Problem = tuple[int, str]  # line number, what is wrong there


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _read_rows(path: str | os.PathLike, with_classes: bool) -> tuple[MotRows, list[int]]:
    """Returns the rows and the line number of each."""
    table, lines = _read_table(Path(path))
    columns = table.shape[1]
    left, top, width, height = table[:, 2:6].T
    boxes = np.stack([left - 1, top - 1, left - 1 + width, top - 1 + height], axis=-1)
    confidences = table[:, 6] if columns > 6 else np.ones(len(table))
    classes = np.full(len(table), 1 if with_classes else -1)
    visibility = np.ones(len(table))
    if with_classes and columns in (8, 9) and (table[:, 7] != -1).any():
        bad_class = ~np.isin(table[:, 7], np.arange(1, NUM_CLASSES + 1))
        _raise_first(
            path,
            [
                (lines[i], f"class (column 8) is {table[i, 7]:g}; expected 1 to {NUM_CLASSES}")
                for i in np.flatnonzero(bad_class)
            ],
        )
        classes = table[:, 7].astype(int)
        if columns == 9:
            visibility = np.where(table[:, 8] == -1, 1.0, table[:, 8])
            bad_visibility = (visibility < 0) | (visibility > 1)
            _raise_first(
                path,
                [
                    (lines[i], f"visibility (column 9) is {visibility[i]:g}; expected 0 to 1")
                    for i in np.flatnonzero(bad_visibility)
                ],
            )
    rows = MotRows(table[:, 0].astype(int), table[:, 1].astype(int), boxes, confidences, classes, visibility)
    return rows, lines


def _read_table(path: Path) -> tuple[np.ndarray, list[int]]:
    """Returns the numbers of the file, all finite, in 6 to 10 columns, and the line number of each row."""
    table: list[list[float]] = []
    lines: list[int] = []
    problems: list[_Problem] = []
    for line, text in enumerate(_read_text(path).splitlines(), 1):
        if not text.strip():
            continue
        fields = text.split(",")
        lines.append(line)
        try:
            row = [float(field) for field in fields]
        except ValueError:
            column = next(i for i, field in enumerate(fields) if not _is_number(field))
            problems.append((line, f"column {column + 1} is {fields[column].strip()!r}; expected a number"))
            continue
        columns = len(table[0]) if table else len(row)
        if not 6 <= len(row) <= 10:
            problems.append((line, f"{len(row)} columns; expected 6 to 10, separated by commas"))
        elif len(row) != columns:
            problems.append((line, f"{len(row)} columns; expected {columns} as in the lines before"))
        elif not np.isfinite(row).all():
            column = int(np.argmin(np.isfinite(row)))
            problems.append(
                (line, f"column {column + 1} is {fields[column].strip()}; expected a finite number")
            )
        elif not (row[0].is_integer() and row[1].is_integer()):
            problems.append((line, f"frame {row[0]:g}, id {row[1]:g}; expected whole numbers"))
        else:
            table.append(row)
    _raise_first(path, problems)
    return np.array(table).reshape(len(table), -1) if table else np.zeros((0, 7)), lines


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check(rows: MotRows, lines: list[int], info: SequenceInfo | None) -> list[_Problem]:
    """Finds boxes without area and frames that do not exist."""
    width, height = (rows.boxes[:, 2:] - rows.boxes[:, :2]).T
    problems = [
        (lines[i], f"box is {width[i]:g} wide and {height[i]:g} high; expected both above 0")
        for i in np.flatnonzero((width <= 0) | (height <= 0))
    ]
    problems += [
        (lines[i], f"frame is {rows.frames[i]}; frames count from 1") for i in np.flatnonzero(rows.frames < 1)
    ]
    if info is not None:
        problems += [
            (lines[i], f"frame is {rows.frames[i]}, but seqLength in seqinfo.ini is {info.length}")
            for i in np.flatnonzero(rows.frames > info.length)
        ]
    return problems


def _duplicates(rows: MotRows, lines: list[int]) -> list[_Problem]:
    """Finds identities that occur twice in a frame."""
    first: dict[tuple[int, int], int] = {}
    problems = []
    for frame, track_id, line in zip(rows.frames.tolist(), rows.track_ids.tolist(), lines, strict=True):
        before = first.setdefault((frame, track_id), line)
        if track_id >= 0 and before != line:
            problems.append((line, f"id {track_id} occurs twice in frame {frame} (before in line {before})"))
    return problems


def _raise_first(path: str | os.PathLike, problems: Iterable[_Problem]) -> None:
    problems = sorted(problems)
    if problems:
        line, what = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{path}:{line}: {what}{more}")
