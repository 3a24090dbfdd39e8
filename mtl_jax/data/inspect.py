"""A sheet of frames with everything that is drawn on them known: the quickest way to see whether labels fit."""

import colorsys
from pathlib import Path

import cv2
import numpy as np

from mtl_jax.data.datasets import open_dataset, select
from mtl_jax.data.records import Objects
from mtl_jax.data.transforms import Image, letterbox, move_objects, warp
from mtl_jax.data.video import decode_image, encode_png
from mtl_jax.errors import UserError

_WIDTH = 480
_GAP = 4
_LINE = 15  # height of a line of text
_SCALE = 0.38
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def contact_sheet(
    dataset: str,
    data_dir: str | Path,
    output: str | Path,
    names: tuple[str, ...] = ("all",),
    rows: int = 4,
    columns: int = 4,
) -> Path:
    """Draws frames of a data set with their boxes, and saves the sheet as PNG.

    Each row shows one video, or one stretch of it, from left to right. Boxes carry class and identity, and
    the visible fraction where it is below one; ignore regions are hatched.

    Args:
        dataset: `builder` or `builder/config`.
        data_dir: Folder of all prepared data sets.
        output: The picture to write.
        names: Splits, sequences or parts of them to show.
        rows: Number of rows.
        columns: Frames in a row.

    Returns:
        The path of the picture.

    Raises:
        UserError: The data set is not there, or the picture cannot be written.
    """
    opened = open_dataset(dataset, data_dir)
    segments = select(opened, names)
    # With fewer videos than rows, rows continue a video.
    picked = [segments[i * len(segments) // rows] for i in range(rows)]
    lines = []
    for row, segment in enumerate(picked):
        parts = picked.count(segment)
        stretch = segment.length / parts
        begin = segment.first + (row - picked.index(segment)) * stretch
        indices = np.linspace(begin, begin + stretch - 1, columns).astype(int)
        cells = []
        for index in indices:
            record = opened[index]
            cell = draw_objects(decode_image(record.image), record.objects, opened.class_names, _WIDTH)
            _write(cell, f"{segment.sequence.name} {record.frame}", 0, 0, (255, 255, 255))
            cells.append(cell)
        lines.append(_join(cells, axis=1))
    output = Path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(encode_png(_join(lines, axis=0)))
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error
    return output


def draw_objects(image: Image, objects: Objects, class_names: tuple[str, ...], width: int) -> Image:
    """Draws objects into a copy of their image that is scaled to a width."""
    size = (round(image.shape[0] * width / image.shape[1]), width)
    affine = letterbox(image.shape[:2], size)
    image = warp(image, affine, size).copy()
    objects = move_objects(objects, affine, size)
    for box, ignore in zip(objects.boxes, objects.ignore, strict=True):
        if ignore:
            _hatch(image, box)
    for row in np.flatnonzero(~objects.ignore):
        track_id, visibility = objects.track_ids[row], objects.visibility[row]
        x0, y0, x1, y1 = objects.boxes[row].round().astype(int).tolist()
        color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(track_id * 0.618 % 1, 0.7, 1))
        cv2.rectangle(image, (x0, y0), (x1, y1), color, 2 if visibility > 0.5 else 1)
        seen = "" if visibility > 0.995 else f" {visibility:.2f}"
        text = f"{class_names[objects.classes[row]]} {track_id}{seen}"
        _write(image, text, x0, y0 - _LINE, color)
    return image


def _write(image: Image, text: str, x: int, y: int, color: tuple[int, ...]) -> None:
    """Writes black on a coloured label with its corner at `(x, y)`, moved to lie in the image, in place."""
    (width, _), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
    x = max(min(x, image.shape[1] - width - 4), 0)
    y = max(y, 0)
    cv2.rectangle(image, (x, y), (x + width + 3, y + _LINE - 1), color, cv2.FILLED)
    cv2.putText(image, text, (x + 2, y + _LINE - 4), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def _hatch(image: Image, box: np.ndarray) -> None:
    """Covers a box with grey diagonals, in place."""
    height, width, _ = image.shape
    x0, y0, x1, y1 = np.clip(box.round(), 0, [width, height] * 2).astype(int)
    y, x = np.mgrid[y0:y1, x0:x1]
    region = image[y0:y1, x0:x1]
    region[(x + y) % 8 < 2] = 190
    cv2.rectangle(image, (int(x0), int(y0)), (int(x1), int(y1)), (190, 190, 190), 1)


def _join(images: list[Image], axis: int) -> Image:
    """Lays pictures side by side (axis 1) or below one another (axis 0), with gaps, padded where they differ."""
    other = 1 - axis
    extent = max(image.shape[other] for image in images)
    parts = []
    for image in images:
        padding = [(0, 0)] * 3
        padding[other] = (0, extent - image.shape[other])
        padding[axis] = (0, _GAP)
        parts.append(np.pad(image, padding, constant_values=255))
    return np.concatenate(parts, axis=axis)
