"""Tracking scores of MOTChallenge result files, by the official TrackEval.

HOTA, CLEAR (MOTA) and Identity (IDF1), with TrackEval's own handling of ignored rows and distractors:

- MOT15: rows of ground truth with confidence 0 are dropped; every other row counts.
- MOT16, MOT17, MOT20: results that match a person on a vehicle, a static person, a distractor or a reflection (MOT20:
  or a non-motorised vehicle) are dropped first; then pedestrians with confidence other than 0 count.

The rules follow from each ground truth file: those of MOT15 where it names no class but the pedestrian, for then both
say the same; those of MOT20 where the sequence's name begins with MOT20.

References: Luiten et al., "HOTA", IJCV 2020 (arXiv:2009.07736); Bernardin & Stiefelhagen, "CLEAR MOT", 2008; Ristani et
al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW 2016 (arXiv:1609.01775).
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity

from mtl_jax.data.mot_format import MotRows, read_ground_truth, read_results, read_seqinfo
from mtl_jax.errors import UserError

Rules = Literal["MOT15", "MOT16", "MOT17", "MOT20"]
Scores = dict[str, float | int]

_HOTA = ("HOTA", "DetA", "AssA", "LocA", "DetRe", "DetPr", "AssRe", "AssPr")
# Our name → TrackEval's.
_CLEAR = {"MOTA": "MOTA", "MOTP": "MOTP", "Recall": "CLR_Re", "Precision": "CLR_Pr"}
_CLEAR_COUNTS = {"IDSW": "IDSW", "MT": "MT", "PT": "PT", "ML": "ML", "Frag": "Frag"}
_CLEAR_COUNTS |= {"TP": "CLR_TP", "FP": "CLR_FP", "FN": "CLR_FN"}
_IDENTITY = ("IDF1", "IDP", "IDR")
_IDENTITY_COUNTS = ("IDTP", "IDFP", "IDFN")


def evaluate_mot(
    gt_root: str | os.PathLike,
    results_dir: str | os.PathLike,
    sequences: Collection[str] | None = None,
    rules: Rules | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> dict[str, dict]:
    """Scores result files against ground truth files.

    A frame of ground truth for which there are no results counts as missed.

    Args:
        gt_root: Folder with `SEQUENCE/gt/gt.txt` or `SEQUENCE/gt.txt`, in itself or in its folder `train`. The length
            of a sequence is told by `seqinfo.ini` beside; without it, it ends with the last frame in either file.
        results_dir: Folder with `SEQUENCE.txt`, `data/SEQUENCE.txt` or `SEQUENCE/SEQUENCE.txt`; the first that exists.
        sequences: Names of the sequences to score; all by default.
        rules: Rules for ignored rows and distractors; by default, each sequence's own.
        warn: Called with a line of text about result files that belong to no sequence.

    Returns:
        `{"sequences": {NAME: scores}, "combined": scores}`. Scores are in percent, counts (IDSW, MT, PT, ML, Frag, TP,
        FP, FN, IDTP, IDFP, IDFN, and GT, the identities) whole numbers, and FAR the false positives per frame.

    Raises:
        UserError: There is no ground truth, a sequence has no results, or a file is wrong.
    """
    gt_root, results_dir = Path(gt_root), Path(results_dir)
    found = _find_ground_truth(gt_root)
    unknown = sorted(set(sequences or ()) - set(found))
    if unknown:
        raise UserError(f"{gt_root}: no ground truth of {', '.join(unknown)}; it has {', '.join(found)}")
    paths = {
        name: _find_results(results_dir, name) for name in found if sequences is None or name in sequences
    }
    extra = sorted({path for path in _result_files(results_dir) if path.stem not in found})
    if extra:
        warn(f"{results_dir}: no ground truth for {', '.join(path.name for path in extra)}; not scored")

    ground_truth, results, lengths = {}, {}, {}
    for name, path in paths.items():
        folder, gt_path = found[name]
        info = read_seqinfo(folder) if (folder / "seqinfo.ini").exists() else None
        # Without `info`, for that would drop boxes outside the image, which TrackEval counts.
        ground_truth[name] = read_ground_truth(gt_path)
        results[name] = read_results(path, info)
        last = int(max(ground_truth[name].frames.max(initial=1), results[name].frames.max(initial=1)))
        lengths[name] = info.length if info else last
        if last > lengths[name]:
            raise UserError(
                f"{gt_path}: frame {last}, but seqLength in {folder / 'seqinfo.ini'} is {lengths[name]}; correct one"
            )
    return evaluate_tracks(ground_truth, results, lengths, rules)


def evaluate_tracks(
    ground_truth: Mapping[str, MotRows],
    results: Mapping[str, MotRows],
    lengths: Mapping[str, int],
    rules: Rules | None = None,
) -> dict[str, dict]:
    """Scores tracks in memory: as `evaluate_mot`, with rows for each sequence instead of files.

    Args:
        ground_truth: Ground truth of each sequence.
        results: Tracks of each sequence.
        lengths: Number of frames of each sequence.
        rules: Rules for ignored rows and distractors; by default, each sequence's own.

    Raises:
        UserError: A sequence has no results, or a row that counts has no identity.
    """
    metrics = HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})
    scores: list[dict[str, dict]] = [{} for _ in metrics]
    for name, objects in ground_truth.items():
        if name not in results:
            raise UserError(f"sequence {name} has no results")
        data = _preprocess(name, objects, results[name], lengths[name], rules or _rules_of(name, objects))
        for metric, of_sequence in zip(metrics, scores, strict=True):
            of_sequence[name] = metric.eval_sequence(data)
    combined = [metric.combine_sequences(s) for metric, s in zip(metrics, scores, strict=True)]
    return {
        "sequences": {name: _summary([s[name] for s in scores], lengths[name]) for name in ground_truth},
        "combined": _summary(combined, sum(lengths[name] for name in ground_truth)),
    }


def _rules_of(name: str, ground_truth: MotRows) -> Rules:
    if (ground_truth.classes == 1).all():
        return "MOT15"
    return "MOT20" if name.upper().startswith("MOT20") else "MOT17"


def _preprocess(name: str, ground_truth: MotRows, results: MotRows, length: int, rules: Rules) -> dict:
    """Returns the sequence as TrackEval's metrics take it, read and filtered by TrackEval.

    TrackEval reads files only, in one layout and with exceptions of its own for what is wrong in them, so the rows,
    which have been checked, are handed over in files.
    """
    ground_truth = _identify_ignored(name, ground_truth)
    if (results.track_ids < 0).any():
        frame = results.frames[results.track_ids < 0][0]
        raise UserError(f"results of {name}: a row of frame {frame} has a negative id; tracks count from 0")
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder, "gt.txt"), ground_truth)
        _write(
            Path(folder, "results", "sequence.txt"), results._replace(classes=np.ones_like(results.classes))
        )
        dataset = MotChallenge2DBox(
            {
                "GT_FOLDER": folder,
                "GT_LOC_FORMAT": "{gt_folder}/gt.txt",
                "TRACKERS_FOLDER": folder,
                "TRACKERS_TO_EVAL": ["results"],
                "TRACKER_SUB_FOLDER": "",
                "SEQ_INFO": {"sequence": length},
                "SKIP_SPLIT_FOL": True,
                "BENCHMARK": rules,
                "PRINT_CONFIG": False,
            }
        )
        return dataset.get_preprocessed_seq_data(
            dataset.get_raw_seq_data("results", "sequence"), "pedestrian"
        )


def _identify_ignored(name: str, rows: MotRows) -> MotRows:
    """Gives ignored rows without identity one each: TrackEval wants identities to differ in a frame."""
    unknown = rows.track_ids < 0
    if (unknown & (rows.confidences != 0)).any():
        frame = rows.frames[unknown & (rows.confidences != 0)][0]
        raise UserError(
            f"ground truth of {name}: an object in frame {frame} has no id; give it one, or confidence 0 to ignore it"
        )
    fresh = rows.track_ids.max(initial=0) + np.cumsum(unknown)
    return rows._replace(track_ids=np.where(unknown, fresh, rows.track_ids))


def _write(path: Path, rows: MotRows) -> None:
    path.parent.mkdir(exist_ok=True)
    corner, size = rows.boxes[:, :2] + 1, rows.boxes[:, 2:] - rows.boxes[:, :2]
    columns = (rows.frames, rows.track_ids, corner, size, rows.confidences, rows.classes, rows.visibility)
    # All digits, so that TrackEval sees the very numbers.
    np.savetxt(path, np.column_stack(columns), delimiter=",", fmt="%.17g")


def _summary(of_metrics: list[dict], frames: int) -> Scores:
    hota, clear, identity = of_metrics
    scores = {name: 100 * float(np.mean(hota[name])) for name in _HOTA}
    scores |= {ours: 100 * float(clear[theirs]) for ours, theirs in _CLEAR.items()}
    scores |= {name: 100 * float(identity[name]) for name in _IDENTITY}
    scores |= {ours: int(clear[theirs]) for ours, theirs in _CLEAR_COUNTS.items()}
    scores |= {name: int(identity[name]) for name in _IDENTITY_COUNTS}
    scores["GT"] = scores["MT"] + scores["PT"] + scores["ML"]
    scores["FAR"] = scores["FP"] / frames
    # As in the MOTChallenge devkit; TrackEval takes the logarithm of the switches alone.
    errors = scores["FP"] + scores["FN"] + np.log10(scores["IDSW"] + 1)
    scores["MOTAL"] = 100 * float(1 - errors / max(scores["TP"] + scores["FN"], 1))
    return scores


def _find_ground_truth(root: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the folder and the ground truth file of each sequence."""
    for parent in (root, root / "train"):
        found = {}
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            path = next((p for p in (folder / "gt" / "gt.txt", folder / "gt.txt") if p.is_file()), None)
            if path is not None:
                found[folder.name] = (folder, path)
        if found:
            return found
    raise UserError(
        f"{root}: no ground truth; expected SEQUENCE/gt/gt.txt or SEQUENCE/gt.txt, here or in train/"
    )


def _find_results(folder: Path, name: str) -> Path:
    candidates = [folder / f"{name}.txt", folder / "data" / f"{name}.txt", folder / name / f"{name}.txt"]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: no results of sequence {name}; expected {name}.txt, data/{name}.txt or {name}/{name}.txt "
            "(an empty file if nothing was found)"
        )
    return path


def _result_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.txt"), *folder.glob("data/*.txt")]
