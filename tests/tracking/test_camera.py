import cv2
import numpy as np
import pytest

from mtl_jax.tracking.camera import STILL, estimate_motion


def scene(seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (40, 54, 3)).astype(np.uint8)
    return cv2.resize(noise, (216, 160), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    "affine",
    [
        [[1, 0, 6.5], [0, 1, -4]],
        [[1.04, 0, -3], [0, 1.04, 2]],
        [[np.cos(0.05), -np.sin(0.05), 2], [np.sin(0.05), np.cos(0.05), -5]],
    ],
    ids=["pan", "zoom", "turn"],
)
def test_finds_how_the_camera_moved(affine):
    affine = np.array(affine)
    before = scene()
    # From pixels with their corner at zero to OpenCV's, whose centre is.
    matrix = np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ [0.5, 0.5] - 0.5])
    now = cv2.warpAffine(before, matrix, (216, 160), borderMode=cv2.BORDER_REFLECT)
    # Something large moves the other way.
    before[50:110, 60:130], now[50:110, 50:120] = scene(1)[:60, :70], scene(1)[:60, :70]
    found = estimate_motion(before, now, np.array([[60.0, 50, 130, 110]]))
    places = np.array([[0.0, 0], [216, 0], [0, 160], [216, 160]])
    off = places @ (found - affine)[:, :2].T + (found - affine)[:, 2]
    assert np.linalg.norm(off, axis=1).max() < 0.7
    np.testing.assert_array_equal(found, estimate_motion(before, now, np.array([[60.0, 50, 130, 110]])))


def test_nothing_to_hold_on_to_is_a_still_camera():
    blank = np.full((60, 80, 3), 90, np.uint8)
    np.testing.assert_array_equal(estimate_motion(blank, blank), STILL)
    np.testing.assert_array_equal(
        estimate_motion(scene(), blank.repeat(3, 0)[:160].repeat(3, 1)[:, :216]), STILL
    )
    everywhere = np.array([[-5.0, -5, 300, 300]])
    np.testing.assert_array_equal(estimate_motion(scene(), scene(), everywhere), STILL)
