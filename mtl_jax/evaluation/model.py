"""Scores of a trained network on a split: detection, tracking, identity and motion, online, video after video."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax.config import Split
from mtl_jax.data.datasets import Segment, open_dataset
from mtl_jax.data.mot_format import write_results
from mtl_jax.data.pipeline import EvaluationClip, evaluation_clips
from mtl_jax.data.transforms import Affine
from mtl_jax.evaluation.coco import evaluate_detections
from mtl_jax.evaluation.matching import Labels, match
from mtl_jax.evaluation.mot import evaluate_mot
from mtl_jax.evaluation.motion import evaluate_motion
from mtl_jax.evaluation.reid import evaluate_embeddings
from mtl_jax.inference import (
    FrameResult,
    Predictor,
    Timing,
    average_variables,
    build_tracker,
    to_mot_rows,
)
from mtl_jax.progress import Progress
from mtl_jax.structures import Batch
from mtl_jax.training.step import Experiment, TrainState

# MOT17's classes; what a tracker reports on a distractor is neither right nor wrong.
_OBJECT, _DISTRACTOR = 1, 8
_SAMPLES = 4000  # embeddings that are compared with each other; more are thinned out evenly


class VideoResult(NamedTuple):
    """What was found in a video, and what is there; both in pixels of the video.

    Attributes:
        segment: Which part of which video.
        labels: Ground truth.
        frames: Results, frame by frame.
    """

    segment: Segment
    labels: Labels
    frames: list[FrameResult]


def evaluate_state(experiment: Experiment, state: TrainState, split: Split, output: Path) -> dict[str, Any]:
    """Follows the objects in the videos of a split and scores what was found: `follow_split`, then `score`."""
    videos, timing = follow_split(experiment, state, split)
    return score(experiment, videos, timing, output)


def follow_split(experiment: Experiment, state: TrainState, split: Split) -> tuple[list[VideoResult], Timing]:
    """Follows the objects in every video of a split, online.

    Args:
        experiment: The parts of the run.
        state: What was trained; its moving average is used.
        split: Which videos.

    Returns:
        What was found in each video, and the time that it took.
    """
    config = experiment.config.data
    predictor, timing = Predictor(experiment, average_variables(state)), Timing()
    clips = list(evaluation_clips(config, getattr(config, split)))
    with Progress(f"evaluating on {split}", sum(clip.segment.length for clip in clips)) as progress:
        return [_follow(predictor, clip, timing, progress) for clip in clips], timing


def score(
    experiment: Experiment, videos: Sequence[VideoResult], timing: Timing, output: Path
) -> dict[str, Any]:
    """Scores what was found in videos.

    All scores are taken in pixels of the original video. Tracks are scored by TrackEval from files, as those of any
    tracker: the same comes out of `mtl-jax evaluate --gt OUTPUT/gt --results OUTPUT/results`. As on MOTChallenge they
    are scored without regard to class.

    Args:
        experiment: The parts of the run.
        videos: What was found, from `follow_split`.
        timing: The time that it took.
        output: Where ground truth, result files and `scores.json` go.

    Returns:
        `detection` (COCO), `tracking` (TrackEval: `sequences` and `combined`), `identity` (re-identification) and
        `motion` (errors in pixels), in percent where the field prints percent; and `frames_per_second`.
    """
    config = experiment.config
    class_names = open_dataset(config.data.dataset, config.data.data_dir).class_names
    for video in videos:
        _write_files(output, video)
    detections = jax.tree.map(
        lambda *rows: np.stack(rows), *(frame.detections for video in videos for frame in video.frames)
    )
    truth = Labels(
        *(np.concatenate(column) for column in zip(*(video.labels for video in videos), strict=True))
    )
    sure = detections.scores >= build_tracker(config.tracker).high_score
    pairs = match(truth, detections._replace(mask=detections.mask & sure))
    scores: dict[str, Any] = {
        "detection": evaluate_detections(truth, detections, class_names),
        "tracking": evaluate_mot(output / "gt", output / "results"),
    }
    if "identity" in config.tasks:
        thin = slice(None, None, len(pairs.frames) // _SAMPLES + 1)
        embeddings = np.asarray(detections.embeddings)[pairs.frames, pairs.detections]
        scores["identity"] = evaluate_embeddings(
            embeddings[thin], truth.track_ids[pairs.frames, pairs.objects][thin]
        )
    if "motion" in config.tasks:
        scores["motion"] = evaluate_motion(truth, detections, pairs)
    scores["frames_per_second"] = timing.frames_per_second()
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def summary(scores: dict[str, Any]) -> dict[str, float]:
    """Returns the scores that stand in tables, one number each; those that could not be taken are left out."""
    tracking = scores["tracking"]["combined"]
    row = {
        "AP": scores["detection"]["AP"],
        "AP50": scores["detection"]["AP50"],
        **{name: tracking[name] for name in ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW")},
        "rank1": scores.get("identity", {}).get("rank1"),
        "motion_error": scores.get("motion", {}).get("displacement_mean"),
    }
    return {name: value for name, value in row.items() if value is not None}


def _follow(predictor: Predictor, clip: EvaluationClip, timing: Timing, progress: Progress) -> VideoResult:
    back = clip.affine.inverse()
    batches: list[Batch] = []

    def frames() -> Iterator[np.ndarray]:
        for batch in clip.batches:
            batches.append(batch._replace(images=None))
            yield from batch.images

    results = []
    for result in predictor.video(frames(), timing):
        results.append(_to_video(result, back))
        progress.advance()
    columns = {name: np.concatenate([getattr(b, name) for b in batches]) for name in Labels._fields}
    columns |= {"boxes": back.boxes(columns["boxes"]), "velocity": back.vectors(columns["velocity"])}
    return VideoResult(clip.segment, Labels(**columns), results)


def _to_video(result: FrameResult, back: Affine) -> FrameResult:
    found, tracks = result.detections, result.tracks
    found = found._replace(boxes=back.boxes(np.asarray(found.boxes)))
    if found.displacement is not None:
        found = found._replace(
            displacement=back.vectors(np.asarray(found.displacement)),
            velocity=back.vectors(np.asarray(found.velocity)),
        )
    return FrameResult(found, tracks._replace(boxes=back.boxes(np.asarray(tracks.boxes))))


def _write_files(output: Path, video: VideoResult) -> None:
    segment, source, labels = video.segment, video.segment.sequence, video.labels
    folder = output / "gt" / segment.name
    (folder / "gt").mkdir(parents=True, exist_ok=True)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={segment.name}\nimDir=img1\nframeRate={source.frame_rate:g}\nseqLength={segment.length}\n"
        f"imWidth={source.width}\nimHeight={source.height}\nimExt=.jpg\n"
    )
    lines = []
    for frame, row in zip(*np.nonzero(labels.mask | labels.ignore), strict=True):
        x0, y0, x1, y1 = labels.boxes[frame, row].tolist()
        place = f"{x0 + 1:.3f},{y0 + 1:.3f},{x1 - x0:.3f},{y1 - y0:.3f}"
        if labels.mask[frame, row]:
            lines.append(f"{frame + 1},{labels.track_ids[frame, row] + 1},{place},1,{_OBJECT},1\n")
        else:
            lines.append(f"{frame + 1},-1,{place},0,{_DISTRACTOR if source.excused else _OBJECT},1\n")
    (folder / "gt" / "gt.txt").write_text("".join(lines))
    write_results(
        output / "results" / f"{segment.name}.txt", to_mot_rows([frame.tracks for frame in video.frames])
    )
