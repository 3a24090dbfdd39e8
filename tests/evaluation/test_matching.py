import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import boxes as box_lib
from mtl_jax.evaluation.matching import Labels, match
from mtl_jax.evaluation.motion import evaluate_motion
from mtl_jax.structures import Detections


def squares(centers, size=10.0):
    centers = np.asarray(centers, float)
    return np.concatenate([centers - size / 2, centers + size / 2], axis=-1)


def labels_of(centers, ids, velocity=None, mask=None):
    ids = np.asarray(ids)
    mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask)
    velocity = np.zeros((*ids.shape, 2)) if velocity is None else np.asarray(velocity, float)
    return Labels(squares(centers), np.zeros_like(ids), ids, velocity, mask, np.zeros_like(mask))


def detections_of(centers, mask=None, displacement=None, velocity=None):
    boxes = squares(centers)
    shape = boxes.shape[:2]
    mask = np.ones(shape, bool) if mask is None else np.asarray(mask)
    return Detections(boxes, np.ones(shape), np.zeros(shape, int), mask, None, displacement, velocity)


def test_match_is_the_best_of_all():
    random = np.random.default_rng(0)
    labels = labels_of(
        random.uniform(0, 20, (6, 3, 2)), np.tile(np.arange(3), (6, 1)), mask=random.random((6, 3)) < 0.8
    )
    detections = detections_of(random.uniform(0, 20, (6, 4, 2)), mask=random.random((6, 4)) < 0.8)
    pairs = match(labels, detections, min_iou=0.1)
    assert len(pairs.frames) > 3
    for frame in range(6):
        overlap = np.asarray(
            box_lib.iou(jnp.asarray(labels.boxes[frame])[:, None], jnp.asarray(detections.boxes[frame])[None])
        )
        overlap = overlap * labels.mask[frame][:, None] * detections.mask[frame][None]
        overlap = np.where(overlap >= 0.1, overlap, 0)
        best = max(overlap[range(3), columns].sum() for columns in itertools.permutations(range(4), 3))
        mine = pairs.frames == frame
        rows, columns = pairs.objects[mine], pairs.detections[mine]
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        assert (overlap[rows, columns] > 0).all()
        assert overlap[rows, columns].sum() == pytest.approx(best, rel=1e-5)


def test_nothing_to_match():
    labels = labels_of(np.zeros((2, 1, 2)), [[0], [0]])
    pairs = match(labels, detections_of(np.full((2, 1, 2), 100.0)))
    assert [column.tolist() for column in pairs] == [[], [], []]
    far = detections_of(np.zeros((2, 1, 2)), displacement=np.zeros((2, 1, 2)), velocity=np.zeros((2, 1, 2)))
    assert set(evaluate_motion(labels, far, pairs).values()) == {None}


def test_motion_error_by_hand():
    # Object 5 moves by (3, 0), then is joined by object 9; the rows change places. Object -1 has no identity.
    labels = labels_of(
        [[[10, 10], [500, 500]], [[13, 10], [500, 500]], [[60, 60], [16, 10]]],
        [[5, -1], [5, -1], [9, 5]],
        velocity=[[[3, 0], [0, 0]], [[3, 0], [0, 0]], [[0, 0], [3, 0]]],
    )
    displacement = np.zeros((3, 2, 2))
    displacement[1, 0] = (-3, 0)  # right
    displacement[2, 1] = (-3, 4)  # 4 off
    velocity = np.zeros((3, 2, 2))
    velocity[1, 0] = (6, 4)  # 5 off
    detections = detections_of(centers_of(labels), displacement=displacement, velocity=velocity)
    scores = evaluate_motion(labels, detections, match(labels, detections))
    assert scores["displacement_mean"] == pytest.approx(2)  # 0 and 4; new objects came from nowhere
    assert scores["displacement_median"] == pytest.approx(2)
    assert scores["velocity_mean"] == pytest.approx((3 + 5 + 0 + 3) / 4)
    assert scores["velocity_median"] == pytest.approx(3)


def centers_of(labels):
    return (labels.boxes[..., :2] + labels.boxes[..., 2:]) / 2
