"""A procedural renderer of moving, textured shapes, with everything about them known.

The shape is the class, the texture tells individuals apart. Colour says nothing about the class; the pattern does where
classes have markings of their own, as animals have, and learning to tell them apart is then quick. Shapes enter and
leave, run straight, turn, weave and change speed, come nearer and go away, rotate, and pass in front of one another,
while the camera pans over a textured ground, the light changes and the sensor adds noise. The same configuration and
seed give the same pixels.
"""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mtl_jax.data import sprites

_REFERENCE_FRAMES = 30


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """What the videos of a data set look like, and how many there are. Lengths are in pixels, times in frames."""

    height: int = 96
    """Height of the frames."""
    width: int = 128
    """Width of the frames."""
    num_classes: int = 4
    """Number of shapes, from the first of `sprites.CLASSES`."""
    objects: tuple[int, int] = (3, 5)
    """Fewest and most objects that come by within 30 frames."""
    markings: bool = False
    """Whether each class has a pattern of its own; else every object has any, and only the outline tells the class."""
    size: tuple[float, float] = (20.0, 44.0)
    """Smallest and largest size."""
    speed: float = 3.0
    """Largest speed."""
    turn: float = 0.06
    """Largest change of direction, in radians a frame."""
    acceleration: float = 0.03
    """Largest relative change of speed a frame."""
    growth: float = 0.015
    """Largest relative change of size a frame."""
    spin: float = 0.08
    """Largest rotation, in radians a frame."""
    pan: float = 1.0
    """Largest speed of the camera."""
    shutter: float = 0.4
    """Fraction of a frame's time during which motion smears."""
    light: float = 0.15
    """Largest relative change of the light over a video."""
    noise: float = 0.015
    """Largest standard deviation of the sensor's noise, relative to white."""
    train: tuple[int, int] = (40, 28)
    """Number and length of the training videos."""
    validation: tuple[int, int] = (6, 40)
    """... of the validation videos."""
    test: tuple[int, int] = (6, 40)
    """... of the test videos."""


PRESETS: dict[str, SceneConfig] = {
    "tiny": SceneConfig(
        height=64,
        width=64,
        num_classes=3,
        markings=True,
        objects=(2, 4),
        size=(12.0, 24.0),
        speed=2.0,
        pan=0.5,
        train=(4, 12),
        validation=(2, 12),
        test=(2, 12),
    ),
    "quickstart": SceneConfig(markings=True, speed=5.0, pan=1.5, train=(400, 4)),
    "standard": SceneConfig(
        height=192,
        width=256,
        num_classes=6,
        objects=(5, 10),
        size=(16.0, 64.0),
        speed=5.0,
        pan=2.0,
        noise=0.025,
        light=0.25,
        train=(160, 40),
        validation=(16, 60),
        test=(16, 60),
    ),
    "hard": SceneConfig(
        height=256,
        width=320,
        num_classes=8,
        objects=(8, 12),
        size=(14.0, 110.0),
        speed=9.0,
        turn=0.12,
        acceleration=0.06,
        growth=0.03,
        spin=0.15,
        pan=6.0,
        shutter=0.9,
        light=0.4,
        noise=0.05,
        train=(160, 40),
        validation=(16, 80),
        test=(16, 80),
    ),
}


def enlarged(preset: str, height: int, width: int) -> SceneConfig:
    """Returns a preset with frames of another size, in which objects are a twelfth to a third of the height."""
    return dataclasses.replace(PRESETS[preset], height=height, width=width, size=(height / 12, height / 3))


class Video(NamedTuple):
    """A rendered video and all that is known about it; the same row is the same object in all frames.

    Attributes:
        frames: RGB pixels.
        present: Whether the box of an object meets the frame.
        boxes: Amodal boxes: the whole extent of each object, hidden parts and those beyond the frame
            included.
        visible_boxes: Boxes around the visible pixels; zero where there are none.
        classes: Class of each object, an index into `sprites.CLASSES`.
        visibility: Visible pixels of an object divided by all its pixels, those beyond the frame included.
        velocity: Motion of the centre of the amodal box in the picture, in pixels per frame: half the
            difference between the next frame and the one before.
        depth: Rank of each object, 0 nearest to the camera.
        masks: Which object each pixel shows: its row + 1, or 0 for the ground.
    """

    frames: UInt8[np.ndarray, "time height width 3"]
    present: Bool[np.ndarray, "time objects"]
    boxes: Float[np.ndarray, "time objects 4"]
    visible_boxes: Float[np.ndarray, "time objects 4"]
    classes: Int[np.ndarray, "objects"]
    visibility: Float[np.ndarray, "time objects"]
    velocity: Float[np.ndarray, "time objects 2"]
    depth: Int[np.ndarray, "objects"]
    masks: UInt8[np.ndarray, "time height width"]


class _Motion(NamedTuple):
    """Where an object is from one frame before the video to one after it."""

    center: Float[np.ndarray, "time 2"]
    size: Float[np.ndarray, "time"]
    angle: Float[np.ndarray, "time"]


def render_video(config: SceneConfig, seed: int, length: int) -> Video:
    """Renders a video.

    Args:
        config: What it looks like.
        seed: What happens in it.
        length: Number of frames.

    Returns:
        The video with its ground truth.
    """
    rng = np.random.default_rng(seed)
    height, width = config.height, config.width
    camera = _camera_path(config, length, rng)
    low, high = config.objects
    count = round(rng.integers(low, high + 1) * max(1.0, length / _REFERENCE_FRAMES))
    classes = rng.integers(config.num_classes, size=count)
    patterns = sprites.TEXTURES
    objects = [
        sprites.make_sprite(sprites.CLASSES[c], rng, patterns[c % len(patterns)] if config.markings else None)
        for c in classes
    ]
    motions = [_object_motion(config, camera, length, rng) for _ in range(count)]
    depth = rng.permutation(count)
    ground = _ground(config, camera, rng)

    around = np.stack([_outer_boxes(s, m) for s, m in zip(objects, motions, strict=True)], axis=1)
    centers = (around[..., :2] + around[..., 2:]) / 2
    velocity = (centers[2:] - centers[:-2]) / 2
    boxes = around[1:-1]
    present = np.all((boxes[..., 2:] > 0) & (boxes[..., :2] < (width, height)), axis=-1)

    frames = np.empty((length, height, width, 3), np.uint8)
    masks = np.zeros((length, height, width), np.uint8)
    visible_boxes = np.zeros_like(boxes)
    visibility = np.zeros(boxes.shape[:2])
    light = _light(config, length, rng)
    noise = rng.uniform(0.3, 1.0) * config.noise
    for t in range(length):
        image = _view(ground, camera, t + 1, config)
        full = np.ones(count)
        for k in sorted(np.flatnonzero(present[t]), key=lambda k: -depth[k]):
            motion = motions[k]
            streak = config.shutter * (motion.center[t + 2] - motion.center[t]) / 2
            patch, coverage, (x, y) = sprites.place(
                objects[k], motion.center[t + 1], motion.size[t + 1], motion.angle[t + 1], streak
            )
            full[k] = (coverage > 0.5).sum()
            inside, (rows, columns) = _clip(patch.shape, x, y, height, width)
            patch, coverage = patch[inside], coverage[inside]
            image[rows, columns] = image[rows, columns] * (1 - patch[..., 3:]) + patch[..., :3]
            masks[t, rows, columns][coverage > 0.5] = k + 1
        for k in np.flatnonzero(present[t]):
            ys, xs = np.nonzero(masks[t] == k + 1)
            if len(ys):
                visible_boxes[t, k] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                visibility[t, k] = len(ys) / full[k]
        image = image * light[t] + noise * rng.standard_normal(image.shape, dtype=np.float32)
        frames[t] = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return Video(frames, present, boxes, visible_boxes, classes, visibility, velocity, depth, masks)


def _camera_path(config: SceneConfig, length: int, rng: np.random.Generator) -> Float[np.ndarray, "time 2"]:
    """Returns the world position of the frame's corner, from one frame before the video to one after it."""
    t = np.arange(-1, length + 1)
    direction = rng.uniform(0, 2 * np.pi) + 0.5 * np.sin(2 * np.pi * t / rng.uniform(40, 120))
    speed = rng.uniform(0, config.pan) * (
        1 + 0.5 * np.sin(2 * np.pi * (t / rng.uniform(20, 60) + rng.random()))
    )
    return np.cumsum(speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], -1), axis=0)


def _object_motion(config: SceneConfig, camera: np.ndarray, length: int, rng: np.random.Generator) -> _Motion:
    """Lets an object run through a random point of the picture at a random time, and follows it both ways."""
    t = np.arange(-1, length + 1)
    meeting = rng.integers(0, length) + 1  # index into t
    since = t - t[meeting]
    bend, gain = np.zeros_like(since, dtype=float), np.ones_like(since, dtype=float)
    kind = rng.choice(["straight", "turning", "weaving", "accelerating"])
    if kind == "turning":
        bend = rng.uniform(-config.turn, config.turn) * since
    elif kind == "weaving":
        period = rng.uniform(15, 30)
        bend = config.turn * period / (2 * np.pi) * np.sin(2 * np.pi * (since / period + rng.random()))
    elif kind == "accelerating":
        gain = np.clip(1 + rng.uniform(-1, 1) * config.acceleration * since, 0.1, 3)
    direction = rng.uniform(0, 2 * np.pi) + bend
    speed = rng.uniform(0.1, 1) * config.speed * gain
    steps = speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], -1)
    way = np.cumsum(steps, axis=0)
    point = rng.uniform(0.1, 0.9, 2) * [config.width, config.height]
    center = point + way - way[meeting] - (camera - camera[meeting])
    low, high = config.size
    size = np.exp(rng.uniform(np.log(low), np.log(high)) + rng.uniform(-1, 1) * config.growth * since)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-1, 1) * config.spin * since
    return _Motion(center, np.clip(size, low, high), angle)


def _outer_boxes(sprite: sprites.Sprite, motion: _Motion) -> Float[np.ndarray, "time 4"]:
    cos, sin = np.cos(motion.angle), np.sin(motion.angle)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    points = np.einsum("tij,pj->tpi", rotation, sprite.outline) * motion.size[:, None, None] / 2
    points = points + motion.center[:, None]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=-1)


def _ground(config: SceneConfig, camera: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paints the whole ground that the camera will see: clouds of three muted colours, with faint slabs."""
    pan_x, pan_y = np.ceil(np.ptp(camera, axis=0)).astype(int).tolist()
    width, height = config.width + pan_x + 2, config.height + pan_y + 2
    hue = rng.random()
    colors = [
        sprites.hsv_color(hue + rng.uniform(-0.15, 0.15), rng.uniform(0.05, 0.45), value)
        for value in rng.permutation([0.25, 0.45, 0.7]) + rng.uniform(-0.1, 0.1, 3)
    ]
    cell = rng.uniform(0.2, 0.5) * config.height
    first, second = (sprites.cloud_noise(height, width, cell, rng)[..., None] for _ in range(2))
    ground = colors[0] * first + colors[1] * (1 - first)
    ground = ground * (1 - 0.6 * second) + colors[2] * 0.6 * second
    for _ in range(rng.integers(3, 9)):
        x0, y0 = rng.uniform(-0.1, 1, 2) * [width, height]
        w, h = rng.uniform(0.1, 0.5, 2) * config.height
        slab = (slice(max(int(y0), 0), max(int(y0 + h), 0)), slice(max(int(x0), 0), max(int(x0 + w), 0)))
        ground[slab] *= rng.uniform(0.8, 1.2)
    ground *= 1 + rng.uniform(0.02, 0.08) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.clip(ground, 0, 1).astype(np.float32)


def _view(ground: np.ndarray, camera: np.ndarray, t: int, config: SceneConfig) -> np.ndarray:
    """Returns what the camera sees of the ground, shifted by fractions of a pixel, smeared by its own motion."""
    offset = camera[t] - camera.min(axis=0)
    matrix = np.column_stack([np.eye(2), -offset])
    size = (config.width, config.height)
    image = cv2.warpAffine(ground, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sprites.motion_blur(image, config.shutter * (camera[t] - camera[t - 1]))


def _light(config: SceneConfig, length: int, rng: np.random.Generator) -> Float[np.ndarray, "time 3"]:
    """Returns the gain of each colour channel over time."""
    t = np.arange(length)
    wave = np.sin(2 * np.pi * (t / rng.uniform(30, 90) + rng.random()))
    tint = 1 + rng.uniform(-0.3, 0.3, 3) * config.light
    return (tint * (1 + config.light * (rng.uniform(-0.5, 0.5) + 0.5 * wave[:, None]))).astype(np.float32)


def _clip(shape: tuple[int, ...], x: int, y: int, height: int, width: int):
    """Returns the part of a patch that lies in the frame, and its place there, as pairs of slices."""
    y0, y1 = max(y, 0), min(y + shape[0], height)
    x0, x1 = max(x, 0), min(x + shape[1], width)
    place = (slice(y0, max(y1, y0)), slice(x0, max(x1, x0)))
    inside = (slice(y0 - y, max(y1, y0) - y), slice(x0 - x, max(x1, x0) - x))
    return inside, place
