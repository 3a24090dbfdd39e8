"""Geometry of boxes `(x0, y0, x1, y1)`; see `mtl_jax.structures` for the convention.

Pure functions that broadcast over leading axes and stay finite, with finite gradients, for empty boxes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def centers(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Returns the centre `(x, y)` of each box."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def sizes(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Returns `(width, height)` of each box, zero where a box is inside out."""
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)


def areas(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Returns the area of each box."""
    return jnp.prod(sizes(boxes), axis=-1)


def from_center_size(center: Float[Array, "*n 2"], size: Float[Array, "*n 2"]) -> Float[Array, "*n 4"]:
    """Returns boxes from centres `(x, y)` and sizes `(width, height)`."""
    return jnp.concatenate([center - size / 2, center + size / 2], axis=-1)


def iou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Returns the intersection over union of boxes taken pair by pair; 0 where both are empty.

    For all pairs of two sets: `iou(a[:, None], b[None, :])`.
    """
    intersection = _intersection(a, b)
    union = areas(a) + areas(b) - intersection
    return intersection / jnp.maximum(union, 1e-9)


def giou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Returns the generalised intersection over union, from -1 to 1, of boxes taken pair by pair.

    `IoU - (|hull| - |union|) / |hull|`, where the hull is the smallest box around both: unlike IoU it has a gradient
    where the boxes do not meet.

    Reference: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019 (arXiv:1902.09630).
    """
    intersection = _intersection(a, b)
    union = areas(a) + areas(b) - intersection
    hull = areas(_hull(a, b))
    return intersection / jnp.maximum(union, 1e-9) - (hull - union) / jnp.maximum(hull, 1e-9)


def diou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Returns the distance intersection over union, from -1 to 1, of boxes taken pair by pair.

    `IoU - |c_a - c_b|² / d²`, with centres `c` and the diagonal `d` of the smallest box around both.

    Reference: Zheng et al., "Distance-IoU Loss", AAAI 2020 (arXiv:1911.08287).
    """
    off = jnp.sum((centers(a) - centers(b)) ** 2, axis=-1)
    return iou(a, b) - off / jnp.maximum(jnp.sum(sizes(_hull(a, b)) ** 2, axis=-1), 1e-9)


def ciou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Returns the complete intersection over union of boxes taken pair by pair.

    `DIoU - v² / (1 - IoU + v)` with `v = (2 (atan(w_a / h_a) - atan(w_b / h_b)) / π)²`: unlike DIoU it tells shapes
    apart.

    Reference: Zheng et al., "Distance-IoU Loss", AAAI 2020 (arXiv:1911.08287).
    """
    turn_a, turn_b = (jnp.arctan2(sizes(x)[..., 0], jnp.maximum(sizes(x)[..., 1], 1e-9)) for x in (a, b))
    v = (2 * (turn_a - turn_b) / jnp.pi) ** 2
    return diou(a, b) - v**2 / jnp.maximum(1 - iou(a, b) + v, 1e-9)


def _hull(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n 4"]:
    return jnp.concatenate(
        [jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1
    )


def _intersection(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)
