"""Textured shapes for the renderer: the outline gives the class, the texture the individual."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

_CANVAS = 128
_EXTENT = 1.15  # the canvas shows [-_EXTENT, _EXTENT] in the units of the outline, so that edges can fade out
_RIM = 0.1


def _regular(corners: int, turn: float = 0.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners + turn
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _star() -> np.ndarray:
    points = _regular(10, -np.pi / 2)
    points[1::2] *= 0.45
    return points


def _cross(arm: float = 0.38) -> np.ndarray:
    corner = np.array([[1, -arm], [1, arm], [arm, arm]])
    quarter = np.array([[0, -1], [1, 0]])
    turns = [np.linalg.matrix_power(quarter, k) for k in range(4)]
    return np.concatenate([corner @ turn.T for turn in turns])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - y.mean()], axis=-1) / 16


def _arrow() -> np.ndarray:
    return np.array([[1, 0], [0, 0.95], [0, 0.38], [-1, 0.38], [-1, -0.38], [0, -0.38], [0, -0.95]])


# The contours of each class; the second one is a hole. All fit the unit circle, more or less.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "square": (_regular(4, np.pi / 4),),
    "disc": (0.9 * _regular(48),),
    "triangle": (1.1 * _regular(3, -np.pi / 2),),
    "cross": (_cross(),),
    "ring": (_regular(48), 0.55 * _regular(48)),
    "star": (1.1 * _star(),),
    "heart": (_heart(),),
    "arrow": (_arrow(),),
}
CLASSES = tuple(OUTLINES)
TEXTURES = ("stripes", "checker", "noise", "gradient", "dots", "halves")


class Sprite(NamedTuple):
    """A textured shape, ready to be drawn at any size.

    Attributes:
        outline: Outer contour in units of half the size.
        levels: The same picture at halving resolutions (a mip map): RGB times alpha, and alpha, in [0, 1].
    """

    outline: Float[np.ndarray, "points 2"]
    levels: list[Float[np.ndarray, "side side 4"]]


def make_sprite(class_name: str, rng: np.random.Generator, pattern: str | None = None) -> Sprite:
    """Draws a shape with a texture of its own: a pattern in two colours, with shading and a darker rim.

    Args:
        class_name: The shape.
        rng: Draws colours, shading, and what is random in the pattern.
        pattern: One of `TEXTURES`; None: a random one.
    """
    contours = OUTLINES[class_name]
    side = 2 * _CANVAS  # drawn twice as large, then averaged, which smooths the edges
    alpha = _fill(contours, side, 1.0)
    inner = _fill([contours[0] * (1 - _RIM)] + [c * (1 + _RIM) for c in contours[1:]], side, 1.0)
    first, second = _two_colors(rng)
    share = _pattern(pattern or rng.choice(TEXTURES), side, rng)[..., None]
    color = first * share + second * (1 - share)
    y, x = _grid(side)
    shade = 1 + 0.25 * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))
    color = color * shade[..., None] * (0.45 + 0.55 * inner[..., None])
    picture = np.dstack([np.clip(color, 0, 1) * alpha[..., None], alpha]).astype(np.float32)
    levels = [cv2.resize(picture, (s, s), interpolation=cv2.INTER_AREA) for s in (_CANVAS, 64, 32, 16)]
    return Sprite(contours[0], levels)


def place(
    sprite: Sprite, center: Float[np.ndarray, "2"], size: float, angle: float, streak: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "h w 4"], Float[np.ndarray, "h w"], tuple[int, int]]:
    """Draws a sprite into the smallest array that holds it.

    Args:
        sprite: What to draw.
        center: Position `(x, y)` of the outline's origin in the picture, in pixels.
        size: Size in pixels; the outline's unit is half of it.
        angle: Rotation in radians.
        streak: Way travelled while the shutter is open, in pixels; smears the picture.

    Returns:
        The picture (RGB times alpha, and alpha); its coverage without motion blur; and `(x, y)` of its
        corner.
    """
    reach = size / 2 * _EXTENT * np.sqrt(2) + np.abs(streak).max() / 2 + 1
    corner = np.floor(center - reach).astype(int)
    extent = np.ceil(center + reach).astype(int) - corner
    level = next((x for x in reversed(sprite.levels) if len(x) >= size * _EXTENT), sprite.levels[0])
    step = 2 * _EXTENT / len(level)  # outline units per texture pixel
    linear = size / 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Pixel i of an array covers [i, i + 1] and OpenCV counts from its centre, hence the halves.
    offset = center - corner - 0.5 + linear @ np.full(2, step / 2 - _EXTENT)
    matrix = np.column_stack([linear * step, offset])
    picture = cv2.warpAffine(level, matrix, (int(extent[0]), int(extent[1])), flags=cv2.INTER_LINEAR)
    coverage = picture[..., 3]
    return motion_blur(picture, streak), coverage, (int(corner[0]), int(corner[1]))


def motion_blur(image: np.ndarray, streak: Float[np.ndarray, "2"]) -> np.ndarray:
    """Averages an image along a straight way `(x, y)` in pixels, centred on where it is."""
    length = float(np.hypot(*streak))
    if length < 0.5:
        return image
    radius = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for step in np.linspace(-0.5, 0.5, 2 * radius + 3):
        x, y = radius + streak * step
        i, j = int(y), int(x)
        kernel[i, j] += (1 - y + i) * (1 - x + j)
        kernel[i, j + 1] += (1 - y + i) * (x - j)
        kernel[i + 1, j] += (y - i) * (1 - x + j)
        kernel[i + 1, j + 1] += (y - i) * (x - j)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def cloud_noise(
    height: int, width: int, cell: float, rng: np.random.Generator, octaves: int = 4
) -> np.ndarray:
    """Returns smooth noise in [0, 1] whose largest blobs are about `cell` pixels wide."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        shape = (int(np.ceil(height / size)) + 2, int(np.ceil(width / size)) + 2)
        coarse = rng.random(shape, dtype=np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def hsv_color(hue: float, saturation: float, value: float) -> Float[np.ndarray, "3"]:
    """Returns an RGB colour in [0, 1] from hue, saturation and value in [0, 1]."""
    pixel = np.array([[[360 * (hue % 1), saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def _fill(contours: list | tuple, side: int, value: float) -> np.ndarray:
    shift = 4  # fractional bits of OpenCV's coordinates
    image = np.zeros((side, side), np.float32)
    points = [np.round((((c / _EXTENT + 1) / 2) * side - 0.5) * 2**shift).astype(np.int32) for c in contours]
    return cv2.fillPoly(image, points, value, lineType=cv2.LINE_8, shift=shift)


def _grid(side: int) -> np.ndarray:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    return np.stack(np.meshgrid(axis, axis, indexing="ij"))


def _two_colors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    hue = rng.random()
    first = hsv_color(hue, rng.uniform(0.5, 1.0), rng.uniform(0.75, 1.0))
    if rng.random() < 0.3:
        return first, np.full(3, rng.choice([0.08, 0.95]), np.float32)
    return first, hsv_color(hue + rng.uniform(0.2, 0.8), rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.9))


def _pattern(name: str, side: int, rng: np.random.Generator) -> Float[np.ndarray, "side side"]:
    """Returns the share of the first colour at each pixel."""
    y, x = _grid(side)
    turn = rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    frequency = rng.uniform(1.2, 2.6)
    if name == "stripes":
        return (np.sin(2 * np.pi * frequency * u) > 0).astype(np.float32)
    if name == "checker":
        return (np.sin(np.pi * frequency * u) * np.sin(np.pi * frequency * v) > 0).astype(np.float32)
    if name == "noise":
        return (cloud_noise(side, side, side / (2 * frequency), rng, octaves=2) > 0.5).astype(np.float32)
    if name == "gradient":
        return np.clip(0.5 + 0.7 * u, 0, 1)
    if name == "dots":
        return (np.hypot((u * frequency) % 1 - 0.5, (v * frequency) % 1 - 0.5) > 0.3).astype(np.float32)
    return (u > 0).astype(np.float32)  # halves
