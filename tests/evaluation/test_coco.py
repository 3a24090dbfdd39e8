import json

import numpy as np
import pytest

from mtl_jax.errors import UserError
from mtl_jax.evaluation.coco import STATS, evaluate_coco_files, evaluate_detections
from mtl_jax.evaluation.matching import Labels
from mtl_jax.structures import Detections


def frames(truth, found):
    """Labels and detections of one frame: (box, class, ignore) and (box, class, score); padded with rubbish."""
    boxes, classes, kinds = [np.array(column) for column in zip(*truth, ((0, 0, 9, 9), 0, None), strict=True)]
    n = len(boxes)
    mask, ignore = np.array([k is False for k in kinds]), np.array([k is True for k in kinds])
    labels = Labels(
        *(x[None] for x in (boxes.astype(float), classes, np.arange(n), np.zeros((n, 2)), mask, ignore))
    )
    boxes, classes, scores = [np.array(column) for column in zip(*found, ((0, 0, 9, 9), 0, 1.0), strict=True)]
    mask = np.arange(len(boxes)) < len(found)
    return labels, Detections(*(x[None] for x in (boxes.astype(float), scores, classes, mask)))


A, B, C = (10, 10, 50, 50), (100, 100, 160, 160), (200, 10, 240, 50)


def test_published_figures(shared_data):
    source = shared_data / "metrics" / "coco_fakebbox100"
    scores = evaluate_coco_files(
        source / "instances_val2014_100.json", source / "instances_val2014_fakebbox100_results.json"
    )
    published = (source / "official_bbox_numbers.txt").read_text().splitlines()
    published = [float(line.split("=")[-1]) for line in published if "=" in line]
    assert len(published) == 12
    assert [round(scores[name] / 100, 3) for name in STATS] == published
    exact = json.loads((source / "pycocotools_2.0.11_bbox_stats.json").read_text())
    np.testing.assert_allclose([scores[name] for name in STATS], np.multiply(100, exact))


def test_perfect_detections(capfd):
    scores = evaluate_detections(
        *frames([(A, 0, False), (B, 1, False)], [(A, 0, 0.9), (B, 1, 0.8)]), ["a", "b"]
    )
    assert [scores[name] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([100] * 4)
    assert scores["per_class"] == pytest.approx({"a": 100, "b": 100})
    assert scores["APs"] is None
    assert capfd.readouterr().out == ""


def test_false_positive_above_halves_precision():
    labels, detections = frames([(A, 0, False)], [(A, 0, 0.5), (B, 0, 0.9)])
    assert evaluate_detections(labels, detections, ["a"])["AP50"] == pytest.approx(50)


def test_wrong_class_is_wrong():
    labels, detections = frames([(A, 0, False)], [(A, 1, 0.9)])
    scores = evaluate_detections(labels, detections, ["a", "b"])
    assert scores["AP"] == 0
    assert scores["per_class"] == {"a": 0, "b": None}


def test_ignore_regions_forgive_every_class():
    truth = [(A, 0, False), (B, 1, False), (C, 0, True)]
    found = [(A, 0, 0.5), (B, 1, 0.5), (C, 0, 0.9), (C, 1, 0.9)]
    assert evaluate_detections(*frames(truth, found), ["a", "b"])["AP"] == pytest.approx(100)
    truth[2] = (A, 0, None)
    assert evaluate_detections(*frames(truth, found), ["a", "b"])["AP"] == pytest.approx(50)


def test_no_detections():
    labels, detections = frames([(A, 0, False)], [])
    assert evaluate_detections(labels, detections, ["a"])["AP"] == 0


def test_no_objects():
    labels, detections = frames([], [(A, 0, 0.9)])
    scores = evaluate_detections(labels, detections, ["a"])
    assert all(scores[name] is None for name in STATS)


def test_bad_files(tmp_path):
    truth, found = tmp_path / "gt.json", tmp_path / "results.json"
    with pytest.raises(UserError, match=r"gt\.json: not found"):
        evaluate_coco_files(truth, found)
    truth.write_text('{"images": [],\n')
    with pytest.raises(UserError, match=r"gt\.json:2: not JSON"):
        evaluate_coco_files(truth, found)
    image, category = {"id": 1}, {"id": 1, "name": "a"}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    good = {"images": [image], "categories": [category], "annotations": [annotation]}
    truth.write_text(json.dumps({"images": []}))
    found.write_text("[]")
    with pytest.raises(UserError, match="expected images, annotations and categories"):
        evaluate_coco_files(truth, found)
    truth.write_text(json.dumps(good))
    assert evaluate_coco_files(truth, found)["AP"] == 0
    found.write_text("{}")
    with pytest.raises(UserError, match="expected a list"):
        evaluate_coco_files(truth, found)
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    found.write_text(json.dumps([result, {"image_id": 1}]))
    with pytest.raises(UserError, match="entry 1 is not a detection"):
        evaluate_coco_files(truth, found)
    found.write_text(json.dumps([result | {"image_id": 7}]))
    with pytest.raises(UserError, match="entry 0 is in image 7"):
        evaluate_coco_files(truth, found)
    found.write_text(json.dumps([result]))
    assert evaluate_coco_files(truth, found)["AP"] == pytest.approx(100)
