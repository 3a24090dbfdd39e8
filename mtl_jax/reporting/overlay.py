"""Tracked objects drawn on video: boxes, labels, and trails that fade."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import supervision as sv
from jaxtyping import Float, Int, UInt8

from mtl_jax.reporting import colors
from mtl_jax.reporting.video import write_video

_COLORS = sv.ColorPalette.from_hex(list(colors.TRACKS))
_TEXT_COLORS = sv.ColorPalette.from_hex([colors.text_on(color) for color in colors.TRACKS])


class FrameTracks(NamedTuple):
    """The tracks reported in a frame, without padding; a plain tuple in this order does as well.

    Attributes:
        boxes: Boxes `(x0, y0, x1, y1)` in pixels of the original frame.
        track_ids: Identities.
        classes: Class indices.
        scores: Confidence, 0 to 1.
    """

    boxes: Float[np.ndarray, "tracks 4"]
    track_ids: Int[np.ndarray, "tracks"]
    classes: Int[np.ndarray, "tracks"]
    scores: Float[np.ndarray, "tracks"]


def annotate_video(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    tracks_per_frame: Iterable[tuple],
    class_names: Sequence[str],
    path: Path | str,
    frame_rate: float | int,
    scale: int | None = None,
    ground_truth: Iterable[Float[np.ndarray, "objects 4"]] | None = None,
    scores: bool = False,
) -> Path:
    """Writes a video in which every object carries its class, identity and trail.

    Args:
        frames: RGB frames.
        tracks_per_frame: For each frame, what `FrameTracks` describes.
        class_names: Name of each class.
        path: MP4 file to write.
        frame_rate: Frames per second.
        scale: Integer factor by which the picture is enlarged before drawing, so that labels on small frames
            can be read; None: the shorter side becomes about 384 pixels, or stays where it is longer.
        ground_truth: For each frame, boxes to draw as thin white lines beneath the tracks.
        scores: Write the confidence on the label too.

    Returns:
        The path.

    Raises:
        UserError: If there are no frames.
    """
    return write_video(
        path, draw_tracks(frames, tracks_per_frame, class_names, scale, ground_truth, scores), frame_rate
    )


def draw_tracks(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    tracks_per_frame: Iterable[tuple],
    class_names: Sequence[str],
    scale: int | None = None,
    ground_truth: Iterable[Float[np.ndarray, "objects 4"]] | None = None,
    scores: bool = False,
    trail_length: int = 30,
) -> Iterator[UInt8[np.ndarray, "scaled_height scaled_width 3"]]:
    """Yields the frames that `annotate_video` writes; see there. Trails are `trail_length` frames long."""
    trails: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=trail_length)
    paired: Iterable[tuple]
    if ground_truth is None:
        paired = ((frame, tracks, None) for frame, tracks in zip(frames, tracks_per_frame, strict=True))
    else:
        paired = zip(frames, tracks_per_frame, ground_truth, strict=True)
    for frame, tracks, truth in paired:
        boxes, track_ids, classes, confidence = (np.asarray(field) for field in tracks)
        factor = scale or max(1, round(384 / min(frame.shape[:2])))
        # OpenCV and supervision draw in BGR.
        scene = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if factor > 1:
            scene = cv2.resize(scene, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        detections = sv.Detections(
            xyxy=boxes.reshape(-1, 4) * float(factor),
            tracker_id=track_ids.astype(int),
            class_id=classes.astype(int),
        )
        labels = [f"{class_names[c]} {i}" for c, i in zip(classes, track_ids, strict=True)]
        if scores:
            labels = [f"{label} {score:.2f}" for label, score in zip(labels, confidence, strict=True)]
        trails.append((detections.get_anchors_coordinates(sv.Position.BOTTOM_CENTER), track_ids))

        scene = _draw_trails(scene, trails)
        if truth is not None:
            _draw_ground_truth(scene, np.asarray(truth) * factor)
        if len(detections):
            _draw_boxes(scene, detections)
            _draw_labels(scene, detections, labels)
        yield cv2.cvtColor(scene, cv2.COLOR_BGR2RGB)


def _unit(scene: np.ndarray) -> float:
    """Size of one stroke: 1 on a picture of 480 lines, growing with the picture."""
    return min(scene.shape[:2]) / 480


def _draw_boxes(scene: np.ndarray, detections: sv.Detections) -> None:
    thickness = max(1, round(2 * _unit(scene)))
    sv.BoxAnnotator(_COLORS, thickness, sv.ColorLookup.TRACK).annotate(scene, detections)


def _draw_labels(scene: np.ndarray, detections: sv.Detections, labels: list[str]) -> None:
    font_scale, padding = max(0.4, 0.45 * _unit(scene)), max(3, round(4 * _unit(scene)))
    thickness = max(1, round(_unit(scene)))
    texts = [cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, font_scale, thickness)[0] for label in labels]
    # A label sits on its box's top left corner, which is moved where the label would leave the picture.
    height, width = scene.shape[:2]
    room = np.array(texts, float) + 2 * padding
    corners = detections.xyxy.astype(float)
    corners[:, 0] = np.clip(corners[:, 0], 0, np.maximum(width - room[:, 0], 0))
    corners[:, 1] = np.clip(corners[:, 1], room[:, 1], height)
    anchors = sv.Detections(corners, tracker_id=detections.tracker_id)
    sv.LabelAnnotator(
        color=_COLORS,
        text_color=_TEXT_COLORS,
        color_lookup=sv.ColorLookup.TRACK,
        text_scale=font_scale,
        text_thickness=thickness,
        text_padding=padding,
    ).annotate(scene, anchors, labels)


def _draw_ground_truth(scene: np.ndarray, boxes: np.ndarray) -> None:
    for x0, y0, x1, y1 in boxes.astype(int).tolist():
        cv2.rectangle(scene, (x0, y0), (x1, y1), (255, 255, 255), max(1, round(_unit(scene))))


def _draw_trails(scene: np.ndarray, trails: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Joins the foot points of each track over the frames, the fainter the older."""
    ink, opacity = scene.copy(), np.zeros(scene.shape[:2], np.uint8)
    thickness = max(1, round(2.5 * _unit(scene)))
    last: dict[int, tuple[int, int]] = {}
    newest = len(trails) - 1
    for index, (points, track_ids) in enumerate(trails):
        alpha = 1 - (newest - index) / (trails.maxlen or len(trails))
        for (x, y), track_id in zip(points, track_ids, strict=True):
            point = round(float(x) * 8), round(float(y) * 8)  # in eighths of a pixel
            if track_id in last:
                color = _COLORS.by_idx(int(track_id)).as_bgr()
                cv2.line(ink, last[track_id], point, color, thickness + 2, cv2.LINE_AA, shift=3)
                cv2.line(opacity, last[track_id], point, round(255 * alpha), thickness, cv2.LINE_AA, shift=3)
            last[track_id] = point
    share = opacity.astype(np.float32) / 255
    return cv2.blendLinear(ink, scene, share, 1 - share)
