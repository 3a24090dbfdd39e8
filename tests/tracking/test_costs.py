import jax.numpy as jnp
import numpy as np

from mtl_jax.tracking import costs

BOXES = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])


def test_overlap():
    detections = jnp.array([[5.0, 0, 15, 10], [20, 0, 30, 10], [50, 50, 60, 60]])
    np.testing.assert_allclose(costs.overlap(BOXES, detections), [[1 / 3, 0, 0], [0, 1, 0]], atol=1e-6)


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
