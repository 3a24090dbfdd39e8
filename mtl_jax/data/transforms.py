"""Geometry and colour of clips: letterboxing, augmentation, and the objects that follow the pixels.

Pure functions of NumPy arrays; what is random is drawn from the generator that is passed in. A clip is drawn
for once and treated alike in all of its frames.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mtl_jax.config import AugmentConfig
from mtl_jax.data.records import Objects

PADDING = (124, 116, 104)
"""Colour beside the picture: the mean of ImageNet, which is zero to a pretrained backbone."""

Image = UInt8[np.ndarray, "_height _width 3"]  # of any size: the underscores keep sizes from being compared
Size = tuple[int, int]  # height, width

REDUCTIONS = (1, 2, 4, 8)
"""Parts of width and height at which pictures are decoded."""


class Affine(NamedTuple):
    """The map `x -> scale * x + offset` of pixel coordinates `(x, y)`; a negative scale mirrors.

    Attributes:
        scale: Scale along x and y.
        offset: Shift along x and y, in pixels of the result.
    """

    scale: Float[np.ndarray, "2"]
    offset: Float[np.ndarray, "2"]

    def inverse(self) -> "Affine":
        """Returns the map that leads back."""
        return Affine(1 / self.scale, -self.offset / self.scale)

    def boxes(self, boxes: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4"]:
        """Maps boxes; mirrored ones stay the right way round."""
        (scale_x, scale_y), (x, y) = self.scale.tolist(), self.offset.tolist()
        moved = boxes * np.array([scale_x, scale_y] * 2) + np.array([x, y] * 2)
        # What is mirrored ends where it began.
        order = [
            2 if scale_x < 0 else 0,
            3 if scale_y < 0 else 1,
            0 if scale_x < 0 else 2,
            1 if scale_y < 0 else 3,
        ]
        return (moved if order == [0, 1, 2, 3] else moved[..., order]).astype(boxes.dtype)

    def vectors(self, vectors: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Maps differences of positions, such as velocities."""
        return (vectors * self.scale).astype(vectors.dtype)


class Clip(NamedTuple):
    """Frames of one size with their objects.

    Attributes:
        images: The frames.
        objects: The objects of each frame.
    """

    images: UInt8[np.ndarray, "time height width 3"]
    objects: list[Objects]


def letterbox(source: Size, target: Size) -> Affine:
    """Returns the map that fits a picture into another size: aspect ratio kept, padded at the right or below."""
    scale = min(target[0] / source[0], target[1] / source[1])
    return Affine(np.full(2, scale), np.zeros(2))


def random_affine(
    source: Size,
    target: Size,
    config: AugmentConfig,
    rng: np.random.Generator,
    centers: Float[np.ndarray, "n 2"] | None = None,
    crop: Size | None = None,
) -> Affine:
    """Returns a random variation of `letterbox`: scale, aspect ratio, crop, shift and mirroring.

    Where the picture is enlarged, any part of it may be what is left; where it is reduced, it may come to lie
    anywhere in the area that the letterboxed picture covers.

    Args:
        source: Size of the picture.
        target: Size that the picture is fitted into.
        config: What is varied, and how much.
        rng: Source of randomness.
        centers: Centres of objects, in pixels of the picture. Where `config.focus` asks for it, one of them is in what
            is left, as far as the shift that follows leaves it there.
        crop: Size of the result, where it is only a part of the target.
    """
    base = letterbox(source, target).scale
    height, width = crop or target
    covered = np.minimum(base * (source[1], source[0]), (width, height))
    zoom = np.exp(rng.uniform(*np.log(config.scale)))
    stretch = np.exp(rng.uniform(-1, 1) * np.log1p(config.aspect) / 2)
    scale = base * zoom * (stretch, 1 / stretch)
    place = rng.uniform(size=2)
    room = covered - scale * (source[1], source[0])
    if config.focus and centers is not None and len(centers) and rng.random() < config.focus:
        offset = place * covered - scale * rng.choice(centers)
        offset = np.clip(offset, np.minimum(room, 0), np.maximum(room, 0))
    else:
        offset = room * place
    offset = offset + rng.uniform(-1, 1, 2) * config.translate * covered
    if rng.random() < config.flip:
        scale, offset = scale * (-1, 1), np.array([covered[0] - offset[0], offset[1]])
    return Affine(scale, offset)


def warp(image: Image, affine: Affine, size: Size) -> Image:
    """Draws an image under an affine map, without aliasing, on `PADDING`."""
    shrink = int(1 / np.abs(affine.scale).max())
    if shrink > 1:
        height, width, _ = image.shape
        small = (max(width // shrink, 1), max(height // shrink, 1))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        affine = Affine(affine.scale * (width / small[0], height / small[1]), affine.offset)
    # OpenCV's coordinates are zero at the centre of the first pixel, ours at its corner.
    matrix = np.column_stack([np.diag(affine.scale), affine.offset + 0.5 * affine.scale - 0.5])
    if np.allclose(matrix, np.eye(2, 3)) and image.shape[:2] == size:
        return image
    return cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderValue=PADDING)


class Placement(NamedTuple):
    """A rectangle of pixels of a picture, drawn on a rectangle of pixels: a map that takes no warp, only a resize.

    Attributes:
        affine: From pixels of the picture to pixels of the result.
        reduction: 1, 2, 4 or 8: the picture is taken at such a part of its width and height, as JPEG decoders give it.
        source: `(x0, y0, x1, y1)` of what is shown, in pixels of the reduced picture.
        target: `(x0, y0, x1, y1)` of where it is drawn; the rest is `PADDING`.
    """

    affine: Affine
    reduction: int
    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]


def place(affine: Affine, source: Size, size: Size) -> Placement:
    """Returns the placement nearest to an affine map, never at less than the result's resolution.

    The part that is shown and the place where it is drawn are rounded to whole pixels, and so the map is changed by at
    most a pixel at each side. One resize is three to five times as fast as a warp.

    Args:
        affine: From pixels of the picture to pixels of the result.
        source: Size of the picture.
        size: Size of the result.
    """
    reduction = max(r for r in REDUCTIONS if r == 1 or r * np.abs(affine.scale).max() <= 1)
    columns, rows = (
        _place_axis(scale, offset, length // reduction, extent, reduction)
        for scale, offset, length, extent in zip(
            affine.scale.tolist(), affine.offset.tolist(), source[::-1], size[::-1], strict=True
        )
    )
    if columns is None or rows is None:
        return Placement(affine, reduction, (0, 0, 0, 0), (0, 0, 0, 0))
    scales, offsets, starts, stops, lows, highs = zip(columns, rows, strict=True)
    return Placement(
        Affine(np.array(scales), np.array(offsets)), reduction, (*starts, *stops), (*lows, *highs)
    )


def _place_axis(
    scale: float, offset: float, length: int, extent: int, reduction: int
) -> tuple[float, float, int, int, int, int] | None:
    """Places one axis.

    Args:
        scale: From pixels of the picture to pixels of the result.
        offset: The same.
        length: Whole pixels of the reduced picture.
        extent: Pixels of the result.
        reduction: Pixels of the picture in one of the reduced picture.

    Returns:
        Scale and offset; start and stop in the reduced picture; low and high end in the result. None where nothing is
        seen.
    """
    first, last = sorted((-offset / scale / reduction, (extent - offset) / scale / reduction))
    first, last = max(first, 0.0), min(last, float(length))
    ends = (first * reduction * scale + offset, last * reduction * scale + offset)
    low, high = round(max(min(ends), 0)), round(min(max(ends), extent))
    shown = round(last - first)
    if high <= low or shown < 1:
        return None
    start = min(round(first), length - shown)
    scale = math.copysign((high - low) / (shown * reduction), scale)
    offset = (low if scale > 0 else high) - scale * reduction * start
    return scale, offset, start, start + shown, low, high


def draw(image: Image, placement: Placement, out: Image) -> None:
    """Draws a reduced picture on another one, which it fills.

    Args:
        image: The picture, at one `placement.reduction`-th of its width and height.
        placement: What is drawn where.
        out: Where it is drawn.
    """
    (x0, y0, x1, y1), (left, top, right, bottom) = placement.source, placement.target
    height, width, _ = out.shape
    if right == left or bottom == top:
        out[:] = PADDING
        return
    shrink = min((x1 - x0) / (right - left), (y1 - y0) / (bottom - top))
    whole = (left, top, right, bottom) == (0, 0, width, height)
    patch = cv2.resize(
        image[y0:y1, x0:x1],
        (right - left, bottom - top),
        dst=out if whole else None,
        interpolation=cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR,
    )
    if placement.affine.scale[0] < 0:
        patch = cv2.flip(patch, 1, dst=patch)
    if not whole:
        border = (top, height - bottom, left, width - right)
        cv2.copyMakeBorder(patch, *border, cv2.BORDER_CONSTANT, dst=out, value=PADDING)


def move_objects(objects: Objects, affine: Affine, size: Size) -> Objects:
    """Maps the objects of a frame, and drops those that are now wholly outside.

    Visibility becomes smaller by the fraction of the visible box that is cut off.
    """
    bounds = np.array([size[1], size[0]] * 2, np.float32)
    boxes = affine.boxes(objects.boxes)
    whole = affine.boxes(objects.visible_boxes)
    visible = np.minimum(np.maximum(whole, 0), bounds)
    left = _areas(visible) / np.maximum(_areas(whole), 1e-6)
    moved = objects._replace(
        boxes=boxes,
        visible_boxes=visible,
        velocity=affine.vectors(objects.velocity),
        visibility=objects.visibility * np.minimum(left, 1),
    )
    inside = _areas(np.minimum(np.maximum(boxes, 0), bounds)) > 0
    return moved if inside.all() else select_objects(moved, inside)


def select_objects(objects: Objects, keep: np.ndarray) -> Objects:
    """Returns the objects picked by a mask or by indices."""
    return Objects(*(column[keep] for column in objects))


def place_clip(clip: Clip, affine: Affine, size: Size) -> Clip:
    """Draws all frames of a clip, and their objects, under an affine map."""
    images = np.stack([warp(image, affine, size) for image in clip.images])
    return Clip(images, [move_objects(objects, affine, size) for objects in clip.objects])


def mosaic(tiles: list[Clip]) -> Clip:
    """Lays four clips of equal size and length out as top left, top right, bottom left and bottom right.

    Who is in an earlier tile already has no identity in a later one, so that nobody is in two places at once.
    """
    _, height, width, _ = tiles[0].images.shape
    rows = [np.concatenate([a.images, b.images], axis=2) for a, b in (tiles[:2], tiles[2:])]
    moved: list[list[Objects]] = [[] for _ in tiles[0].objects]
    taken = np.array([], np.int32)
    for k, tile in enumerate(tiles):
        shift = np.array([k % 2 * width, k // 2 * height] * 2, np.float32)
        for frame, objects in zip(moved, tile.objects, strict=True):
            frame.append(
                objects._replace(
                    boxes=objects.boxes + shift,
                    visible_boxes=objects.visible_boxes + shift,
                    track_ids=np.where(np.isin(objects.track_ids, taken), -1, objects.track_ids),
                )
            )
        taken = np.concatenate([taken, *(objects.track_ids for objects in tile.objects)])
    frames = [Objects(*(np.concatenate(columns) for columns in zip(*frame, strict=True))) for frame in moved]
    return Clip(np.concatenate(rows, axis=1), frames)


def draw_color(config: AugmentConfig, rng: np.random.Generator) -> Float[np.ndarray, "changes"] | None:
    """Draws a change of colour, which `device_augment` applies; None where the configuration asks for none.

    Returns:
        Factors of brightness and contrast; then, where they are varied, the factor of saturation and the turn of hue,
        as a fraction of the colour circle.
    """
    brightness, contrast, saturation = (
        1 + rng.uniform(-1, 1) * amount for amount in (config.brightness, config.contrast, config.saturation)
    )
    turn = rng.uniform(-1, 1) * config.hue
    if config.saturation or config.hue:
        return np.array([brightness, contrast, saturation, turn], np.float32)
    if config.brightness or config.contrast:
        return np.array([brightness, contrast], np.float32)
    return None


def draw_blur(config: AugmentConfig, rng: np.random.Generator) -> Float[np.ndarray, "taps"] | None:
    """Draws a Gaussian blur, none in half of the cases; None where the configuration asks for none.

    Returns:
        Weights of a pixel and of those 1, 2, ... pixels beside it, on each side; as many for any blur drawn.
    """
    if not config.blur:
        return None
    sigma = max(rng.uniform(-1, 1) * config.blur, 1e-3)
    distance = np.arange(np.ceil(3 * config.blur) + 1)
    weights = np.exp(-((distance / sigma) ** 2) / 2)
    return (weights / (2 * weights.sum() - 1)).astype(np.float32)


def cutout(clip: Clip, probability: float, rng: np.random.Generator) -> Clip:
    """Hides objects partly behind patches that stay where they are in all frames of the clip.

    A patch covers a third to two thirds of the width and height of an object's visible box in one of the
    frames, at one of its edges or anywhere in it, and has one random colour. Visibility becomes smaller by
    the fraction of the visible box that is covered. The patches are drawn on the clip's own images, to save a copy.
    """
    images, frames = clip.images, list(clip.objects)
    track_ids = np.unique(np.concatenate([f.track_ids[~f.ignore] for f in frames]))
    for track_id in track_ids[track_ids >= 0]:
        if rng.random() >= probability:
            continue
        seen = [f.visible_boxes[f.track_ids == track_id] for f in frames]
        x0, y0, x1, y1 = rng.choice(np.concatenate(seen))
        low = np.array([x0, y0])
        size = np.array([x1 - x0, y1 - y0])
        extent = size * rng.uniform(1 / 3, 2 / 3, 2)
        corner = low + (size - extent) * rng.uniform(size=2)
        patch = np.concatenate([corner, corner + extent]).round().astype(int)
        images[:, patch[1] : patch[3], patch[0] : patch[2]] = rng.integers(256, size=3)
        frames = [
            f._replace(visibility=f.visibility * (1 - _covered(f.visible_boxes, patch))) for f in frames
        ]
    return Clip(images, frames)


def _covered(boxes: Float[np.ndarray, "n 4"], patch: np.ndarray) -> Float[np.ndarray, "n"]:
    """Returns the fraction of each box that a patch covers."""
    low, high = np.maximum(boxes[:, :2], patch[:2]), np.minimum(boxes[:, 2:], patch[2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    return (overlap / np.maximum(_areas(boxes), 1e-6)).astype(np.float32)


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]
