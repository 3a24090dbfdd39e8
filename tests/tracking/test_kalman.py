import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.tracking import kalman
from mtl_jax.tracking.scaled import NOISY
from tests.tracking import published

SPACES = {
    "size": (kalman.center_size(), published.SizeFilter),
    "aspect": (kalman.center_aspect(), published.AspectFilter),
    "area": (kalman.center_area(NOISY), published.ScaledAreaFilter),
    "area, pixels": (kalman.center_area_in_pixels(), published.AreaFilter),
}


@pytest.mark.parametrize(("space", "textbook"), SPACES.values(), ids=SPACES)
def test_equals_textbook_filter(space, textbook):
    random = np.random.default_rng(0)
    boxes = np.array([[10, 20, 50, 100], [200, 100, 260, 130]]) + np.cumsum(
        random.normal(0, 2, (12, 1, 4)), 0
    )
    seen = random.random(12) < 0.7
    references = [textbook(box) for box in boxes[0]]
    state = kalman.start(space, jnp.asarray(boxes[0]))
    for frame in range(1, 12):
        state = kalman.predict(space, state)
        for reference in references:
            reference.predict()
        distance = kalman.distance(space, state, jnp.asarray(boxes[frame]))
        expected = [
            [reference.gating(textbook.measure(box)) for box in boxes[frame]] for reference in references
        ]
        np.testing.assert_allclose(distance, expected, rtol=2e-3)
        if seen[frame]:
            state = kalman.update(space, state, jnp.asarray(boxes[frame]))
            for reference, box in zip(references, boxes[frame], strict=True):
                reference.update(textbook.measure(box))
        for i, reference in enumerate(references):
            with_velocity = reference.dims - 4
            variance = np.diag(reference.P)
            np.testing.assert_allclose(state.position[i], reference.x[:4], rtol=1e-4)
            velocity = state.velocity[i, :with_velocity]
            np.testing.assert_allclose(velocity, reference.x[4:], rtol=2e-3, atol=1e-3)
            np.testing.assert_allclose(state.position_variance[i], variance[:4], rtol=1e-3)
            of_velocity = state.velocity_variance[i, :with_velocity]
            np.testing.assert_allclose(of_velocity, variance[4:], rtol=1e-2)
            covariance = np.diag(reference.P[:with_velocity, 4:])
            np.testing.assert_allclose(state.covariance[i, :with_velocity], covariance, rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(
            space.to_boxes(state.position), [reference.box() for reference in references], atol=0.01
        )


@pytest.mark.parametrize("space", [space for space, _ in SPACES.values()], ids=SPACES)
def test_spaces_lead_back(space):
    boxes = jnp.array([[10.0, 20, 50, 100], [0, 0, 1, 300], [-5, 3, 700, 4]])
    np.testing.assert_allclose(space.to_boxes(space.from_boxes(boxes)), boxes, rtol=1e-4, atol=1e-3)


def test_warp_equals_the_textbook_for_pan_and_zoom():
    affine = np.array([[1.1, 0, 7], [0, 0.9, -12]])
    space, textbook = SPACES["size"]
    box = np.array([10, 20, 50, 100.0])
    reference, state = textbook(box), kalman.start(space, jnp.asarray(box[None]))
    for shift in (3, 6):
        reference.predict()
        reference.update(textbook.measure(box + shift))
        state = kalman.update(space, kalman.predict(space, state), jnp.asarray(box[None] + shift))
    reference.warp(affine)
    state = kalman.warp(state, jnp.asarray(affine))
    np.testing.assert_allclose(state.position[0], reference.x[:4], rtol=1e-4)
    np.testing.assert_allclose(state.velocity[0], reference.x[4:], rtol=1e-3)
    np.testing.assert_allclose(state.position_variance[0], np.diag(reference.P)[:4], rtol=1e-3)
    np.testing.assert_allclose(state.covariance[0], np.diag(reference.P[:4, 4:]), rtol=1e-3)


def test_learns_constant_velocity():
    space = kalman.center_size()
    state = kalman.start(space, jnp.array([0.0, 0.0, 20.0, 40.0]))
    for frame in range(1, 40):
        shift = jnp.array([3.0, -2.0, 3.0, -2.0]) * frame
        state = kalman.update(space, kalman.predict(space, state), jnp.array([0.0, 0.0, 20.0, 40.0]) + shift)
    np.testing.assert_allclose(state.velocity, [3, -2, 0, 0], atol=0.05)


@pytest.mark.parametrize("space", [space for space, _ in SPACES.values()], ids=SPACES)
@pytest.mark.parametrize("size", [0.0, 0.01, 1e4])
def test_stays_finite_when_nothing_is_seen_for_long(size, space):
    state = kalman.start(space, jnp.array([5.0, 5.0, 5.0 + size, 5.0 + size]))
    state = state._replace(velocity=jnp.array([1.0, 1.0, -5.0, -5.0]))
    for _ in range(100):
        state = kalman.predict(space, state)
    boxes = space.to_boxes(state.position)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
    assert (boxes[2:] >= boxes[:2]).all()
