"""Kalman filter of a box that moves with constant velocity, for all tracks at once.

The state of a box is its centre and size `(cx, cy, w, h)` with a velocity for each. Transition, measurement and noise
treat the four alike and apart, so the 8 × 8 covariance is four 2 × 2 blocks, and every matrix inverse of the textbook
becomes a division.

Noise grows with the object: standard deviations are fractions of its width (for x and w) or height (for y and h), per
frame.

Reference: Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017
(arXiv:1703.07402), for the scaled noise; Aharon et al., "BoT-SORT", 2022 (arXiv:2206.14651), for width in the state.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax import boxes as box_lib

POSITION_NOISE = 1 / 20
"""Standard deviation of a measurement, and of the position's own wandering in a frame, relative to the size."""
VELOCITY_NOISE = 1 / 160
"""Standard deviation of the velocity's wandering in a frame, relative to the size."""


class KalmanState(NamedTuple):
    """Gaussian belief about boxes and their motion.

    Attributes:
        position: Mean of `(cx, cy, w, h)`, in pixels.
        velocity: Mean of its change, in pixels per frame.
        position_variance: Variance of each position.
        velocity_variance: Variance of each velocity.
        covariance: Covariance of each position with its own velocity.
    """

    position: Float[Array, "*n 4"]
    velocity: Float[Array, "*n 4"]
    position_variance: Float[Array, "*n 4"]
    velocity_variance: Float[Array, "*n 4"]
    covariance: Float[Array, "*n 4"]


def start(boxes: Float[Array, "*n 4"]) -> KalmanState:
    """Returns the belief after a first sight of each box: at rest, with little known about the velocity."""
    position = _from_boxes(boxes)
    size = _scale(position)
    return KalmanState(
        position=position,
        velocity=jnp.zeros_like(position),
        position_variance=(2 * POSITION_NOISE * size) ** 2,
        velocity_variance=(10 * VELOCITY_NOISE * size) ** 2,
        covariance=jnp.zeros_like(position),
    )


def predict(state: KalmanState) -> KalmanState:
    """Returns the belief one frame later.

    With `F = [[1, 1], [0, 1]]` for each coordinate: `x ← F x`, `P ← F P Fᵀ + Q`.
    """
    size = _scale(state.position)
    return KalmanState(
        position=state.position + state.velocity,
        velocity=state.velocity,
        position_variance=state.position_variance
        + 2 * state.covariance
        + state.velocity_variance
        + (POSITION_NOISE * size) ** 2,
        velocity_variance=state.velocity_variance + (VELOCITY_NOISE * size) ** 2,
        covariance=state.covariance + state.velocity_variance,
    )


def update(state: KalmanState, boxes: Float[Array, "*n 4"]) -> KalmanState:
    """Returns the belief after each box was seen.

    The position alone is measured, so for each coordinate the gain is `K = (P_xx, P_xv) / (P_xx + R)`, and
    `x ← x + K (z − x)`, `P ← (I − K H) P`.
    """
    surprise = _from_boxes(boxes) - state.position
    total = state.position_variance + _measurement_variance(state)
    gain = state.position_variance / total
    velocity_gain = state.covariance / total
    return KalmanState(
        position=state.position + gain * surprise,
        velocity=state.velocity + velocity_gain * surprise,
        position_variance=(1 - gain) * state.position_variance,
        velocity_variance=state.velocity_variance - velocity_gain * state.covariance,
        covariance=(1 - gain) * state.covariance,
    )


def center_distance(
    state: KalmanState, boxes: Float[Array, "detections 4"]
) -> Float[Array, "tracks detections"]:
    """Returns the squared Mahalanobis distance of every box centre from every track's predicted one.

    For the right pair it is χ² distributed with two degrees of freedom: above 9.21 in one case of a hundred.
    """
    surprise = box_lib.centers(boxes)[None, :] - state.position[:, None, :2]
    variance = (state.position_variance + _measurement_variance(state))[:, None, :2]
    return jnp.sum(surprise**2 / variance, axis=-1)


def to_boxes(state: KalmanState) -> Float[Array, "*n 4"]:
    """Returns the mean as boxes `(x0, y0, x1, y1)`."""
    return box_lib.from_center_size(state.position[..., :2], jnp.maximum(state.position[..., 2:], 0))


def _from_boxes(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    return jnp.concatenate([box_lib.centers(boxes), box_lib.sizes(boxes)], axis=-1)


def _scale(position: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    # At least a pixel: an object whose predicted size shrank to nothing still has noise, and nothing divides by zero.
    return jnp.maximum(jnp.concatenate([position[..., 2:], position[..., 2:]], axis=-1), 1.0)


def _measurement_variance(state: KalmanState) -> Float[Array, "*n 4"]:
    return (POSITION_NOISE * _scale(state.position)) ** 2
