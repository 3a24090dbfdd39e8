"""Where on the feature map an object is learned: Gaussian peaks and the cells that answer for each object.

Every task trains and predicts at the same places. An object's place is the cell that holds its centre; around it an
elliptic Gaussian, with axes in proportion to the box, says how much a cell still counts as the centre.

Reference: Zhou et al., "Objects as Points", 2019 (arXiv:1904.07850); the elliptic Gaussian and its use as a sampling
region for regression are of Liu et al., "Training-Time-Friendly Network", AAAI 2020 (arXiv:1909.00700).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax import boxes as box_ops
from mtl_jax.models.network import STRIDE

# Standard deviation of the Gaussian: relative to the box (TTFNet: 0.09), and at least this many cells, so that a small
# object too has neighbours that are half right.
_SPREAD, _LEAST_SPREAD = 0.12, 0.7
_REGION = 0.1  # cells whose Gaussian is below this take no part in regression


class Targets(NamedTuple):
    """Targets of one frame that all tasks share; with leading axes, of many.

    Attributes:
        cells: Column and row of each object's centre cell, inside the map.
        heatmap: Largest Gaussian of each class, exactly 1 at centre cells.
        counted: False in ignore regions.
        assignment: Row of the object that each cell answers for.
        weight: Share of each cell in its object's regression loss; sums to 1 over an object's cells.
    """

    cells: Int[Array, "*batch objects 2"]
    heatmap: Float[Array, "*batch height width classes"]
    counted: Bool[Array, "*batch height width"]
    assignment: Int[Array, "*batch height width"]
    weight: Float[Array, "*batch height width"]


def make_targets(
    boxes: Float[Array, "objects 4"],
    classes: Int[Array, "objects"],
    mask: Bool[Array, "objects"],
    ignore: Bool[Array, "objects"],
    shape: tuple[int, int],
    num_classes: int,
) -> Targets:
    """Returns the targets of one frame.

    Args:
        boxes: Boxes in input pixels.
        classes: Class of each object.
        mask: True on rows that hold an object.
        ignore: True on rows that hold an ignore region.
        shape: Height and width of the feature map, in cells.
        num_classes: Number of classes.
    """
    height, width = shape
    cells = center_cells(boxes, shape)
    # Centred on the cell, not on the exact centre, so that the peak is exactly 1.
    gaussians = _gaussians(boxes, cells, mask, shape)

    heatmap = jnp.zeros((num_classes, height, width)).at[classes].max(gaussians)

    # A cell answers for the object whose Gaussian is largest there; a centre cell that two objects share goes to one.
    assignment = jnp.argmax(gaussians, axis=0)
    strength = jnp.max(gaussians, axis=0)
    strength = jnp.where(strength >= _REGION, strength, 0)
    per_object = jnp.zeros(len(boxes)).at[assignment].add(strength)
    weight = strength / jnp.maximum(per_object[assignment], 1e-6)

    return Targets(cells, jnp.moveaxis(heatmap, 0, -1), ~_covered(boxes, ignore, shape), assignment, weight)


def center_cells(boxes: Float[Array, "*n 4"], shape: tuple[int, int]) -> Int[Array, "*n 2"]:
    """Returns column and row of the cell that holds each box's centre; the nearest one where that is outside."""
    cells = jnp.floor(box_ops.centers(boxes) / STRIDE).astype(jnp.int32)
    return jnp.clip(cells, 0, jnp.array([shape[1] - 1, shape[0] - 1]))


def render_heatmap(
    boxes: Float[Array, "objects 4"], mask: Bool[Array, "objects"], shape: tuple[int, int]
) -> Float[Array, "height width"]:
    """Returns the class-agnostic heat map of the given boxes: the network's memory of the previous frame.

    Centred on the exact centres, so that motion by a fraction of a cell can be read off it.
    """
    positions = box_ops.centers(boxes) / STRIDE - 0.5
    return jnp.max(_gaussians(boxes, positions, mask, shape), axis=0, initial=0)


def perturb_objects(
    key: jax.Array,
    boxes: Float[Array, "objects 4"],
    mask: Bool[Array, "objects"],
    jitter: float,
    lost: float,
    false: float,
) -> tuple[Float[Array, "2*objects 4"], Bool[Array, "2*objects"]]:
    """Makes ground truth look like a tracker's output: jittered, with objects missing and false ones beside.

    Args:
        key: Random key.
        boxes: True boxes.
        mask: True on rows that exist.
        jitter: Standard deviation of the centre, relative to the box's size.
        lost: Fraction of the objects that are left out.
        false: Fraction of the objects beside which a false one appears.

    Reference: Zhou et al., "Tracking Objects as Points", ECCV 2020 (arXiv:2004.01177), section 4.2.
    """
    keys = jax.random.split(key, 4)
    size = jnp.tile(box_ops.sizes(boxes), 2)
    shift = jnp.tile(jax.random.normal(keys[0], (len(boxes), 2)), 2)
    beside = jnp.tile(jax.random.normal(keys[1], (len(boxes), 2)), 2)
    kept = mask & ~jax.random.bernoulli(keys[2], lost, mask.shape)
    invented = mask & jax.random.bernoulli(keys[3], false, mask.shape)
    noisy = boxes + jitter * shift * size
    return jnp.concatenate([noisy, boxes + beside * size]), jnp.concatenate([kept, invented])


def at_cells(
    features: Float[Array, "height width channels"], cells: Int[Array, "n 2"]
) -> Float[Array, "n channels"]:
    """Returns the features at the given cells (column, row)."""
    return features[cells[:, 1], cells[:, 0]]


def _gaussians(
    boxes: Float[Array, "objects 4"],
    positions: Int[Array, "objects 2"] | Float[Array, "objects 2"],
    mask: Bool[Array, "objects"],
    shape: tuple[int, int],
) -> Float[Array, "objects height width"]:
    """Returns a Gaussian for each object, around its column and row."""
    sigma = jnp.maximum(_SPREAD * box_ops.sizes(boxes) / STRIDE, _LEAST_SPREAD)

    def along(axis: int, length: int) -> Array:
        distance = jnp.arange(length) - positions[:, axis, None]
        return jnp.exp(-0.5 * (distance / sigma[:, axis, None]) ** 2)

    gaussians = along(1, shape[0])[:, :, None] * along(0, shape[1])[:, None, :]
    return jnp.where(mask[:, None, None], gaussians, 0)


def _covered(
    boxes: Float[Array, "objects 4"], rows: Bool[Array, "objects"], shape: tuple[int, int]
) -> Bool[Array, "height width"]:
    def inside(axis: int, length: int) -> Array:
        position = (jnp.arange(length) + 0.5) * STRIDE
        return (position >= boxes[:, axis, None]) & (position < boxes[:, axis + 2, None])

    covered = inside(1, shape[0])[:, :, None] & inside(0, shape[1])[:, None, :]
    return jnp.any(covered & rows[:, None, None], axis=0)
