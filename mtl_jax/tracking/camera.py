"""How the camera moved between two frames, estimated on the host from corners that stand still.

Reference: Aharon et al., "BoT-SORT", 2022 (arXiv:2206.14651), section 3.2, which does the same.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

STILL = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
"""The map of a camera that did not move."""
_CORNERS, _LEAST = 400, 12
_QUALITY, _DISTANCE, _TOLERANCE = (
    0.01,
    5,
    2.0,
)  # of corners: relative to the best, pixels apart, pixels off the map


def estimate_motion(
    before: UInt8[np.ndarray, "height width 3"],
    now: UInt8[np.ndarray, "height width 3"],
    objects: Float[np.ndarray, "n 4"] | None = None,
) -> Float[np.ndarray, "2 3"]:
    """Returns the map from the pixels of one frame to those of the next: shift, rotation and zoom.

    Corners are followed by optical flow, and the map is the one that most of them obey.

    Args:
        before: RGB frame.
        now: The frame after it.
        objects: Boxes in the former where objects are, which move by themselves: no corners are taken there.

    Returns:
        `(x, y) -> A (x, y) + b` as `[A | b]`; `STILL` where too few corners are found.

    Example:
        >>> state, tracks = tracker.step(state, detections, estimate_motion(previous_frame, frame, boxes))
    """
    first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, now))
    mask = np.full(first.shape, 255, np.uint8)
    for x0, y0, x1, y1 in np.zeros((0, 4), int) if objects is None else objects.round().astype(int):
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 0
    corners = cv2.goodFeaturesToTrack(first, _CORNERS, _QUALITY, _DISTANCE, mask=mask)
    if corners is None or len(corners) < _LEAST:
        return STILL
    followed, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, np.empty_like(corners))
    kept = found.ravel() == 1
    if np.count_nonzero(kept) < _LEAST:
        return STILL
    # OpenCV's coordinates are zero at the centre of the first pixel, ours at its corner.
    cv2.setRNGSeed(0)  # the same map for the same frames
    affine, obey = cv2.estimateAffinePartial2D(
        corners[kept] + 0.5, followed[kept] + 0.5, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE
    )
    return STILL if affine is None or np.count_nonzero(obey) < _LEAST else affine.astype(np.float32)
