"""COCO detection scores, by the official pycocotools.

Reference: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (arXiv:1405.0312).
"""

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtl_jax.errors import UserError
from mtl_jax.evaluation.matching import Labels
from mtl_jax.structures import Detections

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Names of pycocotools' twelve numbers, in its order."""


def evaluate_detections(labels: Labels, detections: Detections, class_names: Sequence[str]) -> dict:
    """Scores detections against the objects of the same frames.

    What lies in an ignore region counts neither as right nor as wrong, whatever its class.

    Args:
        labels: Ground truth; each frame is an image.
        detections: Detections of the same frames.
        class_names: Name of each class, in the order of the class index.

    Returns:
        The twelve COCO numbers under the names in `STATS`, and `per_class`, AP by class name; in percent. None
        where there is no object to judge by.
    """
    categories = [{"id": index, "name": name} for index, name in enumerate(class_names)]
    images = [{"id": frame} for frame in range(len(labels.boxes))]
    objects = _annotations(labels.boxes, labels.mask, category_id=labels.classes)
    objects += [
        annotation | {"category_id": category["id"], "iscrowd": 1}
        for annotation in _annotations(labels.boxes, labels.ignore)
        for category in categories
    ]
    found = _annotations(
        detections.boxes, detections.mask, category_id=detections.classes, score=detections.scores
    )
    with _silence():
        return _evaluate(_dataset(images, categories, objects), _dataset(images, categories, found))


def evaluate_coco_files(gt_json: str | os.PathLike, results_json: str | os.PathLike) -> dict:
    """Scores a COCO result file (`[{"image_id", "category_id", "bbox", "score"}, …]`) against a COCO annotation file.

    Returns:
        As `evaluate_detections`.

    Raises:
        UserError: A file is missing, is not of this form, or has results for images without annotations.
    """
    dataset, results = _read_json(gt_json), _read_json(results_json)
    if not isinstance(dataset, dict) or not {"images", "annotations", "categories"} <= set(dataset):
        raise UserError(f"{gt_json}: not COCO annotations; expected images, annotations and categories")
    if not isinstance(results, list):
        raise UserError(f"{results_json}: not COCO results; expected a list of detections")
    needed, known = {"image_id", "category_id", "bbox", "score"}, {image["id"] for image in dataset["images"]}
    for index, result in enumerate(results):
        if not isinstance(result, dict) or not needed <= set(result) or len(result["bbox"]) != 4:
            raise UserError(
                f"{results_json}: entry {index} is not a detection; expected image_id, category_id, score and "
                "bbox (left, top, width, height)"
            )
        if result["image_id"] not in known:
            raise UserError(
                f"{results_json}: entry {index} is in image {result['image_id']}, which {gt_json} lacks"
            )
    found = [result | {"area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0} for result in results]
    with _silence():
        return _evaluate(
            _dataset(dataset["images"], dataset["categories"], dataset["annotations"], number=False),
            _dataset(dataset["images"], dataset["categories"], found),
        )


def _annotations(boxes, mask, **columns) -> list[dict]:
    """Returns a COCO annotation for each row of the mask, with a key for each further column."""
    boxes, mask = np.asarray(boxes, float), np.asarray(mask)
    size = boxes[..., 2:] - boxes[..., :2]
    values = {name: np.asarray(column)[mask].tolist() for name, column in columns.items()}
    return [
        {"image_id": frame, "bbox": [*corner, *wh], "area": wh[0] * wh[1], "iscrowd": 0}
        | {name: column[row] for name, column in values.items()}
        for row, (frame, corner, wh) in enumerate(
            zip(np.nonzero(mask)[0].tolist(), boxes[mask][:, :2].tolist(), size[mask].tolist(), strict=True)
        )
    ]


def _dataset(
    images: list[dict], categories: list[dict], annotations: list[dict], number: bool = True
) -> COCO:
    coco = COCO()
    if number:
        # From 1: pycocotools takes 0 for "no match".
        annotations = [annotation | {"id": i} for i, annotation in enumerate(annotations, 1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _evaluate(ground_truth: COCO, detections: COCO) -> dict:
    evaluation = COCOeval(ground_truth, detections, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # precision: IoU thresholds, recalls, classes, areas (all first), numbers of detections (100 last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = [category["name"] for category in ground_truth.loadCats(evaluation.params.catIds)]
    scores = {name: _percent(value) for name, value in zip(STATS, evaluation.stats, strict=True)}
    per_class = {name: _percent(precision[:, :, index].mean()) for index, name in enumerate(names)}
    return scores | {"per_class": per_class}


def _percent(value: float) -> float | None:
    # pycocotools says -1 where there is no object.
    return 100 * float(value) if value >= 0 else None


def _read_json(path: str | os.PathLike):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _silence():
    return contextlib.redirect_stdout(io.StringIO())
