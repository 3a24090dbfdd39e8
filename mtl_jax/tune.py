"""Searching a tracker's thresholds on videos with ground truth: all trials in one compiled program."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from mtl_jax import tracking
from mtl_jax.data.mot_format import MotRows
from mtl_jax.errors import UserError
from mtl_jax.evaluation.mot import evaluate_tracks
from mtl_jax.progress import Progress
from mtl_jax.tracking.detections import chunks, to_rows


class Range(NamedTuple):
    """Where an option is searched.

    Attributes:
        low: Smallest value.
        high: Largest value.
        scale: Evenly, evenly in the logarithm, or whole numbers.
    """

    low: float
    high: float
    scale: str = "even"


RANGES = {
    "high_score": Range(0.2, 0.8),
    "low_score": Range(0.05, 0.4),
    "new_score": Range(0.2, 0.9),
    "match_iou": Range(0.05, 0.6),
    "low_match_iou": Range(0.2, 0.7),
    "tentative_match_iou": Range(0.05, 0.6),
    "inertia": Range(0.0, 0.5),
    "max_lost": Range(1, 60, "whole"),
    "min_hits": Range(1, 4, "whole"),
    "measurement_noise": Range(1 / 60, 1 / 5, "log"),
    "position_noise": Range(1 / 160, 1 / 10, "log"),
    "velocity_noise": Range(1 / 640, 1 / 20, "log"),
}
_TOGETHER = 16  # trials that go through the tracker at once


def tune(
    tracker: tracking.Tracker,
    detections: Mapping[str, MotRows],
    truth: Mapping[str, MotRows],
    lengths: Mapping[str, int],
    trials: int = 64,
    metric: str = "HOTA",
    seed: int = 0,
) -> dict[str, Any]:
    """Searches the options of a tracker that are in `RANGES`, over a sequence that covers them evenly (Sobol's).

    The thresholds are arguments of one compiled program, so a trial costs little more than its scores. The tracker as
    it is given is the first trial: the result is never worse on these videos. How good it is on others is another
    question, which `held_out` answers where there are several.

    Args:
        tracker: The tracker, whose other options stay.
        detections: Detections of each video.
        truth: Ground truth of each.
        lengths: Frames of each.
        trials: Settings that are tried.
        metric: Score of `evaluate_tracks` whose mean over the videos is to be high.
        seed: Seed of the settings.

    Returns:
        `options`: the best; `given` and `best`: the mean score before and after; `held_out`: with each video left out
        in turn, the mean score there of the setting that is best on the others, or None for a single video; and
        `trials`: of each its options and scores.

    Raises:
        UserError: The metric is unknown, or there are no trials.
    """
    if trials < 1:
        raise UserError(f"tune: found {trials} trials; give at least 1")
    names = [field.name for field in dataclasses.fields(tracker) if field.name in RANGES]
    settings = _settings(tracker, names, trials, seed)
    count, _ = tracking.table_sizes(max(map(tracking.most_in_a_frame, detections.values())))
    padded = {name: tracking.pad(rows, lengths[name], count).detections for name, rows in detections.items()}

    def piece(values: dict[str, Any], state: Any, video: Any) -> Any:
        # Not `dataclasses.replace`: these are traced arrays, and the fields' types say numbers.
        tried = copy.copy(tracker)
        for name, value in values.items():
            object.__setattr__(tried, name, value)
        return tried._scan(state, video)

    follow = jax.jit(jax.vmap(piece, in_axes=(0, 0, None)))
    scores: list[dict[str, float]] = []
    with Progress("tuning", trials) as progress:
        for first in range(0, trials, _TOGETHER):
            now = {key: jnp.asarray(column[first : first + _TOGETHER]) for key, column in settings.items()}
            number = len(next(iter(now.values())))
            results: list[dict[str, MotRows]] = [{} for _ in range(number)]
            for name, video in padded.items():
                state = jax.tree.map(lambda x, n=number: jnp.broadcast_to(x, (n, *x.shape)), tracker.init())
                pieces = []
                for part in chunks(video):
                    state, tracks = follow(now, state, part)
                    pieces.append(jax.tree.map(np.asarray, tracks))
                together = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *pieces)
                for i, result in enumerate(results):
                    alone = jax.tree.map(lambda x, i=i, n=lengths[name]: x[i, :n], together)
                    result[name] = to_rows(alone)
            for result in results:
                found = evaluate_tracks(truth, result, lengths)["sequences"]
                known = next(iter(found.values()))
                if metric not in known:
                    raise UserError(f"tune: no score {metric!r}; choose from {', '.join(known)}")
                scores.append({name: row[metric] for name, row in found.items()})
                progress.advance()

    table = np.array([[row[name] for name in detections] for row in scores])
    best = int(np.argmax(table.mean(axis=1)))
    held_out = None
    if table.shape[1] > 1:
        of_others = (table.sum(axis=1, keepdims=True) - table) / (table.shape[1] - 1)
        held_out = float(np.mean(table[np.argmax(of_others, axis=0), np.arange(table.shape[1])]))
    options = [{key: _short(column[i]) for key, column in settings.items()} for i in range(trials)]
    return {
        "metric": metric,
        "options": options[best],
        "given": float(table[0].mean()),
        "best": float(table[best].mean()),
        "held_out": held_out,
        "trials": [{"options": o, "scores": s} for o, s in zip(options, scores, strict=True)],
    }


def _short(value: np.generic) -> int | float:
    """Returns a number as one would write it."""
    return int(value) if isinstance(value, np.integer) else round(float(value), 5)


def _settings(tracker: tracking.Tracker, names: list[str], trials: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the values of each option in all trials, the given ones first."""
    places = qmc.Sobol(len(names), seed=seed).random(2 ** (trials - 1).bit_length())[: trials - 1]
    settings = {}
    for name, place in zip(names, places.T, strict=True):
        low, high, scale = RANGES[name]
        if scale == "log":
            values = low * (high / low) ** place
        elif scale == "whole":
            values = np.floor(low + place * (high + 1 - low))
        else:
            values = low + place * (high - low)
        dtype = np.int32 if scale == "whole" else np.float32
        settings[name] = np.concatenate([[getattr(tracker, name)], values.round(4)]).astype(dtype)
    return settings
