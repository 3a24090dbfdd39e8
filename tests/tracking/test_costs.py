import typing

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import boxes as box_lib
from mtl_jax.tracking import costs

BOXES = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])


def test_overlap():
    detections = jnp.array([[5.0, 0, 15, 10], [20, 0, 30, 10], [50, 50, 60, 60]])
    np.testing.assert_allclose(costs.overlap(BOXES, detections), [[1 / 3, 0, 0], [0, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("kind", typing.get_args(costs.Overlap))
def test_overlaps_agree_on_what_is_nearest(kind):
    # From 0 to 1; one for the box itself, less the further away.
    boxes = jnp.array([[20.0, 20, 40, 60]]) + jnp.array([[0.0], [4], [9], [19]])
    overlap = costs.overlap(boxes[:1], boxes, kind)[0]
    np.testing.assert_allclose(overlap[0], 1, atol=1e-6)
    assert (jnp.diff(overlap) < 0).all() and (overlap >= 0).all()


def test_distance_overlaps_by_hand():
    a, b = jnp.array([0.0, 0, 2, 2]), jnp.array([1.0, 0, 3, 2])
    np.testing.assert_allclose(box_lib.diou(a, b), 1 / 3 - 1 / 13, rtol=1e-5)
    np.testing.assert_allclose(box_lib.ciou(a, b), 1 / 3 - 1 / 13, rtol=1e-5)
    wide = jnp.array([0.0, 0, 4, 2])
    v = (2 / np.pi * (np.arctan(1) - np.arctan(2))) ** 2
    np.testing.assert_allclose(box_lib.diou(a, wide), 1 / 2 - 1 / 20, rtol=1e-5)
    np.testing.assert_allclose(box_lib.ciou(a, wide), 1 / 2 - 1 / 20 - v**2 / (1 / 2 + v), rtol=1e-5)


def test_direction_is_best_straight_ahead():
    start, heading = jnp.array([[0.0, 0, 10, 10]]), jnp.array([[1.0, 0]])
    ways = [[20, 0], [20, 20], [0, 20], [-20, 0]]
    detections = start + jnp.array([[x, y, x, y] for x, y in ways], jnp.float32)
    np.testing.assert_allclose(costs.direction(start, heading, detections), [[0.5, 0.25, 0, -0.5]], atol=1e-3)
    np.testing.assert_allclose(costs.direction(start, 0 * heading, detections), jnp.zeros((1, 4)), atol=1e-6)


def test_displacement_takes_detections_to_the_previous_frame():
    detections = BOXES + jnp.array([100.0, 7, 100, 7])
    displacement = jnp.array([[-100.0, -7], [-100, -7]])
    assert (costs.overlap(BOXES, detections) == 0).all()
    np.testing.assert_allclose(costs.displaced_overlap(BOXES, detections, displacement), np.eye(2), atol=1e-6)


def test_cosine_is_not_negative():
    tracks = jnp.array([[1.0, 0], [0.6, 0.8]])
    detections = jnp.array([[1.0, 0], [-1, 0], [0, 1]])
    np.testing.assert_allclose(costs.cosine(tracks, detections), [[1, 0, 0], [0.6, 0, 0.8]], atol=1e-6)


def test_same_class():
    same = costs.same_class(jnp.array([0, 2]), jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(same, [[False, True, False], [True, False, False]])
