"""Kalman filters of boxes that move with constant velocity, for all tracks at once.

A filter follows four numbers of a box, each with a velocity. Which four is a `Space`: `(cx, cy, w, h)`,
`(cx, cy, a, h)` with the aspect ratio `a = w / h`, or `(cx, cy, s, r)` with the area `s = w h` and the ratio
`r = w / h`. In all of them transition, measurement and noise treat the four apart, so the covariance is four 2 × 2
blocks, and every matrix inverse of the textbook becomes a division.

References: Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016 (arXiv:1602.00763), for `(cx, cy, s, r)`;
Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017 (arXiv:1703.07402), for
`(cx, cy, a, h)` and noise in proportion to the size; Aharon et al., "BoT-SORT", 2022 (arXiv:2206.14651), for
`(cx, cy, w, h)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax import boxes as box_lib


class KalmanState(NamedTuple):
    """Gaussian belief about boxes and their motion.

    Attributes:
        position: Mean of the four numbers that the space names, in pixels.
        velocity: Mean of their change, per frame.
        position_variance: Variance of each position.
        velocity_variance: Variance of each velocity.
        covariance: Covariance of each position with its own velocity.
    """

    position: Float[Array, "*n 4"]
    velocity: Float[Array, "*n 4"]
    position_variance: Float[Array, "*n 4"]
    velocity_variance: Float[Array, "*n 4"]
    covariance: Float[Array, "*n 4"]


class Noise(NamedTuple):
    """Standard deviations, for each of the four numbers.

    Attributes:
        start: Of position and velocity after a first sight.
        process: Of what position and velocity wander in a frame.
        measurement: Of a measurement.
    """

    start: tuple[Float[Array, "*n 4"], Float[Array, "*n 4"]]
    process: tuple[Float[Array, "*n 4"], Float[Array, "*n 4"]]
    measurement: Float[Array, "*n 4"]


class RelativeNoise(NamedTuple):
    """Standard deviations relative to the size of the object; those of a start follow from them.

    Attributes:
        measurement: Of a measured position.
        position: Of what the position wanders in a frame beside its velocity.
        velocity: Of what the velocity wanders in a frame.
    """

    measurement: float = 1 / 20
    position: float = 1 / 20
    velocity: float = 1 / 160


_PUBLISHED = RelativeNoise()


class Space(NamedTuple):
    """Which four numbers of a box a filter follows.

    Attributes:
        from_boxes: From boxes `(x0, y0, x1, y1)` to the four numbers.
        to_boxes: Back.
        noise: Noise at a position.
        affine: Whether an affine map turns the first and the last two numbers alike, so that `warp` can.
    """

    from_boxes: Callable[[Float[Array, "*n 4"]], Float[Array, "*n 4"]]
    to_boxes: Callable[[Float[Array, "*n 4"]], Float[Array, "*n 4"]]
    noise: Callable[[Float[Array, "*n 4"]], Noise]
    affine: bool = False


def start(space: Space, boxes: Float[Array, "*n 4"]) -> KalmanState:
    """Returns the belief after a first sight of each box: at rest, with little known about the velocity."""
    position = space.from_boxes(boxes)
    of_position, of_velocity = space.noise(position).start
    return KalmanState(
        position=position,
        velocity=jnp.zeros_like(position),
        position_variance=of_position**2,
        velocity_variance=of_velocity**2,
        covariance=jnp.zeros_like(position),
    )


def predict(space: Space, state: KalmanState) -> KalmanState:
    """Returns the belief one frame later.

    With `F = [[1, 1], [0, 1]]` for each number: `x ← F x`, `P ← F P Fᵀ + Q`.
    """
    of_position, of_velocity = space.noise(state.position).process
    return KalmanState(
        position=state.position + state.velocity,
        velocity=state.velocity,
        position_variance=state.position_variance
        + 2 * state.covariance
        + state.velocity_variance
        + of_position**2,
        velocity_variance=state.velocity_variance + of_velocity**2,
        covariance=state.covariance + state.velocity_variance,
    )


def update(space: Space, state: KalmanState, boxes: Float[Array, "*n 4"]) -> KalmanState:
    """Returns the belief after each box was seen.

    The position alone is measured, so for each number the gain is `K = (P_xx, P_xv) / (P_xx + R)`, and
    `x ← x + K (z − x)`, `P ← (I − K H) P`.
    """
    surprise = space.from_boxes(boxes) - state.position
    measured = space.noise(state.position).measurement ** 2
    total = state.position_variance + measured
    gain = state.position_variance / total
    velocity_gain = state.covariance / total
    left = measured / total  # 1 - gain, without the digits that the difference loses where little was known
    return KalmanState(
        position=state.position + gain * surprise,
        velocity=state.velocity + velocity_gain * surprise,
        position_variance=left * state.position_variance,
        velocity_variance=state.velocity_variance - velocity_gain * state.covariance,
        covariance=left * state.covariance,
    )


def replay(
    space: Space,
    before: KalmanState,
    first: Float[Array, "n 4"],
    last: Float[Array, "n 4"],
    gap: Int[Array, "n"],
) -> KalmanState:
    """Returns the belief if boxes that were out of sight had been seen on a straight line.

    The observation-centric re-update: instead of what the filter believed while nothing was seen, it is shown the boxes
    between the last one seen and the one found now, evenly spaced in centre, width and height.

    Args:
        space: Which four numbers.
        before: Belief in the first frame without sight, before an update: one frame after `first`.
        first: Box where each was seen last.
        last: Box where it is found now.
        gap: Frames from the one to the other. One: it was never out of sight; the result is the plain update.

    Returns:
        The belief now, `last` included.

    Reference: Cao et al., "Observation-Centric SORT", CVPR 2023 (arXiv:2203.14360), section 3.3.
    """
    here, there = _center_size(first), _center_size(last)
    change = (there - here) / jnp.maximum(gap, 1)[:, None]

    def see(k: Array, state: KalmanState) -> KalmanState:
        between = here + k * change
        seen = update(space, state, box_lib.from_center_size(between[:, :2], between[:, 2:]))
        ahead = predict(space, seen)
        return where(k < gap, ahead, where(k == gap, seen, state))

    return jax.lax.fori_loop(1, jnp.max(gap, initial=1) + 1, see, before)


def warp(state: KalmanState, affine: Float[Array, "2 3"]) -> KalmanState:
    """Returns the belief in the pixels of the next frame, where the camera moved: for `(cx, cy, w, h)`.

    Position and velocity of the centre, and those of the size, are turned alike by the affine map's matrix, and the
    centre is shifted. Of the covariance that a rotation brings between x and y, nothing is kept: what is left is exact
    for a camera that pans and zooms, and right to first order in the angle for one that turns.

    Args:
        state: The belief.
        affine: Map from the pixels of the frame before to those of this one, `(x, y) -> A (x, y) + b`.

    Reference: Aharon et al., "BoT-SORT", 2022 (arXiv:2206.14651), section 3.2.
    """
    matrix, shift = affine[:, :2], affine[:, 2]

    def turn(matrix: Array, pairs: Array) -> Array:
        return jnp.concatenate([pairs[..., :2] @ matrix.T, pairs[..., 2:] @ matrix.T], axis=-1)

    square = matrix**2
    return KalmanState(
        position=turn(matrix, state.position) + jnp.concatenate([shift, jnp.zeros(2)]),
        velocity=turn(matrix, state.velocity),
        position_variance=turn(square, state.position_variance),
        velocity_variance=turn(square, state.velocity_variance),
        covariance=turn(square, state.covariance),
    )


def distance(
    space: Space, state: KalmanState, boxes: Float[Array, "detections 4"], numbers: int = 4
) -> Float[Array, "tracks detections"]:
    """Returns the squared Mahalanobis distance of every box from every track's predicted one.

    For the right pair it is χ² distributed with as many degrees of freedom as numbers are compared: with two above 9.21
    in one case of a hundred, with four above 9.49 in five.

    Args:
        space: Which four numbers.
        state: Belief about the tracks.
        boxes: Boxes that were found.
        numbers: How many of the four are compared; 2: the centre alone.
    """
    measured = space.from_boxes(boxes)
    variance = state.position_variance + space.noise(state.position).measurement ** 2
    squared = (measured[None, :, :numbers] - state.position[:, None, :numbers]) ** 2
    return jnp.sum(squared / variance[:, None, :numbers], axis=-1)


def where(rows: Bool[Array, "n"], a: KalmanState, b: KalmanState) -> KalmanState:
    """Returns the beliefs of `a` in the given rows, of `b` in the others."""
    return jax.tree.map(lambda x, y: jnp.where(rows[:, None], x, y), a, b)


def center_size(relative: RelativeNoise = _PUBLISHED) -> Space:
    """Returns the space `(cx, cy, w, h)`; noise of x and w grows with the width, that of y and h with the height."""

    def noise(position: Array) -> Noise:
        size = _at_least_a_pixel(position[..., 2:])
        return _in_proportion(relative, jnp.concatenate([size, size], axis=-1))

    return Space(_center_size, _from_center_size, noise, affine=True)


def center_aspect(relative: RelativeNoise = _PUBLISHED) -> Space:
    """Returns the space `(cx, cy, a, h)`; the noise of all but the ratio grows with the height."""

    def noise(position: Array) -> Noise:
        height = _at_least_a_pixel(position[..., 3:])

        def deviations(relative: float, of_aspect: float) -> Array:
            # The aspect ratio is a pure number that hardly changes.
            of_height = relative * height
            return jnp.concatenate(
                [of_height, of_height, jnp.full_like(of_height, of_aspect), of_height], axis=-1
            )

        return Noise(
            (deviations(2 * relative.measurement, 1e-2), deviations(10 * relative.velocity, 1e-5)),
            (deviations(relative.position, 1e-2), deviations(relative.velocity, 1e-5)),
            deviations(relative.measurement, 1e-1),
        )

    return Space(_center_aspect, _from_center_aspect, noise)


def center_area(relative: RelativeNoise = _PUBLISHED) -> Space:
    """Returns the space `(cx, cy, s, r)`; the ratio has no velocity.

    The noise is that of `center_size` to first order: width and height err on their own, so that their product and
    quotient err by √2 times as much.
    """

    def noise(position: Array) -> Noise:
        width, height = jnp.moveaxis(_at_least_a_pixel(_sides(position)), -1, 0)
        area, ratio = width * height, width / height
        scale = jnp.stack([width, height, jnp.sqrt(2.0) * area, jnp.sqrt(2.0) * ratio], axis=-1)
        return _in_proportion(relative, scale, moves=jnp.array([1.0, 1.0, 1.0, 0.0]))

    return Space(_center_area, _from_center_area, noise)


def center_area_in_pixels() -> Space:
    """Returns the space `(cx, cy, s, r)` with SORT's noise, which is in pixels, whatever the size."""

    def noise(position: Array) -> Noise:
        def deviations(*variances: float) -> Array:
            return jnp.broadcast_to(jnp.sqrt(jnp.array(variances)), position.shape)

        return Noise(
            (deviations(10.0, 10.0, 10.0, 10.0), deviations(1e4, 1e4, 1e4, 0.0)),
            (deviations(1.0, 1.0, 1.0, 1.0), deviations(0.01, 0.01, 0.0001, 0.0)),
            deviations(1.0, 1.0, 10.0, 10.0),
        )

    return Space(_center_area, _from_center_area, noise)


def _in_proportion(relative: RelativeNoise, scale: Array, moves: Array | float = 1.0) -> Noise:
    # `moves`: 0 for a number without velocity.
    of_measurement, of_velocity = relative.measurement * scale, relative.velocity * scale * moves
    return Noise(
        (2 * of_measurement, 10 * of_velocity), (relative.position * scale, of_velocity), of_measurement
    )


def _at_least_a_pixel(size: Array) -> Array:
    # An object whose predicted size shrank to nothing still has noise, and nothing divides by zero.
    return jnp.maximum(size, 1.0)


def _center_size(boxes: Array) -> Array:
    return jnp.concatenate([box_lib.centers(boxes), box_lib.sizes(boxes)], axis=-1)


def _from_center_size(position: Array) -> Array:
    return box_lib.from_center_size(position[..., :2], jnp.maximum(position[..., 2:], 0))


def _center_aspect(boxes: Array) -> Array:
    width, height = jnp.moveaxis(box_lib.sizes(boxes), -1, 0)
    shape = jnp.stack([width / jnp.maximum(height, 1e-6), height], axis=-1)
    return jnp.concatenate([box_lib.centers(boxes), shape], axis=-1)


def _from_center_aspect(position: Array) -> Array:
    height = jnp.maximum(position[..., 3], 0)
    size = jnp.stack([jnp.maximum(position[..., 2], 0) * height, height], axis=-1)
    return box_lib.from_center_size(position[..., :2], size)


def _center_area(boxes: Array) -> Array:
    width, height = jnp.moveaxis(box_lib.sizes(boxes), -1, 0)
    shape = jnp.stack([width * height, width / jnp.maximum(height, 1e-6)], axis=-1)
    return jnp.concatenate([box_lib.centers(boxes), shape], axis=-1)


def _from_center_area(position: Array) -> Array:
    return box_lib.from_center_size(position[..., :2], _sides(position))


def _sides(position: Array) -> Array:
    area, ratio = jnp.maximum(position[..., 2], 0), jnp.maximum(position[..., 3], 1e-6)
    return jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], axis=-1)
