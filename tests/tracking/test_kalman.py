import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.tracking import kalman


class TextbookFilter:
    """The 8-dimensional Kalman filter of one box, with matrices, in float64."""

    def __init__(self, box):
        z = self.measure(box)
        self.mean = np.concatenate([z, np.zeros(4)])
        size = np.tile(z[2:], 2)
        self.covariance = np.diag(np.concatenate([2 * size / 20, 10 * size / 160]) ** 2)

    @staticmethod
    def measure(box):
        x0, y0, x1, y1 = box
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])

    def predict(self):
        size = np.tile(self.mean[2:4], 2)
        transition = np.eye(8) + np.eye(8, k=4)
        noise = np.diag(np.concatenate([size / 20, size / 160]) ** 2)
        self.mean = transition @ self.mean
        self.covariance = transition @ self.covariance @ transition.T + noise

    def innovation(self):
        observe = np.eye(4, 8)
        size = np.tile(self.mean[2:4], 2)
        return observe, observe @ self.covariance @ observe.T + np.diag(size / 20) ** 2

    def update(self, box):
        observe, total = self.innovation()
        gain = self.covariance @ observe.T @ np.linalg.inv(total)
        self.mean = self.mean + gain @ (self.measure(box) - observe @ self.mean)
        self.covariance = (np.eye(8) - gain @ observe) @ self.covariance


def test_equals_textbook_filter():
    random = np.random.default_rng(0)
    boxes = np.array([[10, 20, 50, 100], [200, 100, 260, 130]]) + np.cumsum(
        random.normal(0, 2, (12, 1, 4)), 0
    )
    seen = random.random(12) < 0.7
    references = [TextbookFilter(box) for box in boxes[0]]
    state = kalman.start(jnp.asarray(boxes[0]))
    for frame in range(1, 12):
        state = kalman.predict(state)
        distance = kalman.center_distance(state, jnp.asarray(boxes[frame]))
        for i, reference in enumerate(references):
            reference.predict()
            total = reference.innovation()[1][:2, :2]
            for j, box in enumerate(boxes[frame]):
                off = reference.measure(box)[:2] - reference.mean[:2]
                np.testing.assert_allclose(distance[i, j], off @ np.linalg.inv(total) @ off, rtol=1e-3)
        if seen[frame]:
            state = kalman.update(state, jnp.asarray(boxes[frame]))
            for reference, box in zip(references, boxes[frame], strict=True):
                reference.update(box)
        for i, reference in enumerate(references):
            np.testing.assert_allclose(state.position[i], reference.mean[:4], rtol=1e-4)
            np.testing.assert_allclose(state.velocity[i], reference.mean[4:], rtol=1e-3, atol=1e-3)
            covariance = reference.covariance
            np.testing.assert_allclose(state.position_variance[i], np.diag(covariance)[:4], rtol=1e-3)
            np.testing.assert_allclose(state.velocity_variance[i], np.diag(covariance)[4:], rtol=1e-3)
            np.testing.assert_allclose(state.covariance[i], np.diag(covariance[:4, 4:]), rtol=1e-3)


def test_learns_constant_velocity():
    state = kalman.start(jnp.array([0.0, 0.0, 20.0, 40.0]))
    for frame in range(1, 40):
        shift = jnp.array([3.0, -2.0, 3.0, -2.0]) * frame
        state = kalman.update(kalman.predict(state), jnp.array([0.0, 0.0, 20.0, 40.0]) + shift)
    np.testing.assert_allclose(state.velocity, [3, -2, 0, 0], atol=0.05)


@pytest.mark.parametrize("size", [0.0, 0.01, 1e4])
def test_stays_finite_when_nothing_is_seen_for_long(size):
    state = kalman.start(jnp.array([5.0, 5.0, 5.0 + size, 5.0 + size]))
    state = state._replace(velocity=jnp.array([1.0, 1.0, -5.0, -5.0]))
    for _ in range(100):
        state = kalman.predict(state)
    boxes = kalman.to_boxes(state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
    assert (boxes[2:] >= boxes[:2]).all()
