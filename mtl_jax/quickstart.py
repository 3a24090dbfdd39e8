"""The whole job in minutes on a CPU: data, training under two weightings, evaluation, report."""

import shutil
import time
from pathlib import Path

import jax
import numpy as np

from mtl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrackerConfig,
    TrainingConfig,
    WeightingConfig,
)
from mtl_jax.data.datasets import open_dataset, prepare
from mtl_jax.data.video import decode_image
from mtl_jax.errors import UserError
from mtl_jax.evaluation.model import VideoResult, follow_split, score, summary
from mtl_jax.reporting import tables
from mtl_jax.reporting.overlay import FrameTracks, annotate_video
from mtl_jax.reporting.report import write_report
from mtl_jax.training import cpu
from mtl_jax.training.loop import train
from mtl_jax.training.metrics import read_metrics

WEIGHTINGS = {
    # The classic weights: 0.5 box, 0.3 class and 0.2 tracking, which motion and identity share.
    "fixed": WeightingConfig(
        scheme="fixed", weights={"box": 0.5, "classification": 0.3, "motion": 0.1, "identity": 0.1}
    ),
    "uncertainty": WeightingConfig(scheme="uncertainty"),
}


def config(weighting: str, data_dir: Path, seed: int = 0) -> Config:
    """Returns the experiment for one of the two weightings, which differ in nothing else."""
    return Config(
        name=f"quickstart-{weighting}",
        data=DataConfig(
            dataset="moving_objects/quickstart",
            data_dir=str(data_dir),
            max_objects=12,
            batch_size=4,
            augment=AugmentConfig(flip=0.5, brightness=0.1, contrast=0.1),
        ),
        model=ModelConfig(backbone="tiny"),
        weighting=WEIGHTINGS[weighting],
        optimizer=OptimizerConfig(learning_rate=7e-3, warmup_steps=80, ema_decay=0.995),
        training=TrainingConfig(
            steps=1800, seed=seed, log_every=20, diagnose_every=200, checkpoint_every=1000
        ),
        # An object taken for one of two classes is one object, and stays the same when the other class prevails.
        tracker=TrackerConfig(
            options={"high_score": 0.3, "new_score": 0.4, "duplicate_iou": 0.7, "match_classes": False}
        ),
    )


def run(workdir: Path, seed: int = 0) -> list[dict]:
    """Does it all, prints the table and returns its rows.

    Args:
        workdir: Where everything goes: `data`, a run for each weighting, `results.json`, `report.md`.
        seed: The one seed of everything random.

    Raises:
        UserError: If an earlier quickstart lies in `workdir`.
    """
    if (workdir / "results.json").exists():
        raise UserError(f"{workdir}: holds an earlier quickstart; remove it, or choose another --workdir")
    begin = time.perf_counter()
    data_dir = workdir / "data"
    cpu.prepare(config("fixed", data_dir).data.batch_size)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # What the two runs have in common is compiled once.
        jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "compiled"))
    prepare("moving_objects/quickstart", data_dir)
    rows = []
    for name in WEIGHTINGS:
        # What a stopped quickstart left of a run is not gone on with: the seconds would be wrong.
        shutil.rmtree(workdir / name, ignore_errors=True)
        rows.append(_run_one(name, config(name, data_dir, seed), workdir / name))

    write_report(
        workdir,
        title="Quickstart: fixed weights and learned uncertainty",
        rows=rows,
        runs={name: workdir / name for name in WEIGHTINGS},
        videos={name: workdir / name / "evaluation" / "tracks.mp4" for name in WEIGHTINGS},
        results={name: workdir / name / "evaluation" / "results" for name in WEIGHTINGS},
        notes=[
            "Scores are in percent, on the test videos, which are not trained on. Losses are means "
            "over the last tenth of training, before weighting; weights are those at its end. Seconds are of training, "
            "compilation included."
        ],
        command="mtl-jax quickstart",
    )
    tables.print_table(rows)
    print(f"{workdir / 'report.md'}: report, plots, videos; {time.perf_counter() - begin:.0f} s in all")
    return rows


def _run_one(name: str, config: Config, workdir: Path) -> dict:
    begin = time.perf_counter()
    experiment, state = train(config, workdir)
    seconds = time.perf_counter() - begin
    videos, timing = follow_split(experiment, state, "test")
    scores = score(experiment, videos, timing, workdir / "evaluation")
    liveliest = max(videos, key=lambda video: video.labels.mask.sum())
    _annotate(liveliest, config, workdir / "evaluation" / "tracks.mp4")
    metrics = [row for row in read_metrics(workdir) if "loss/total" in row]
    tail = metrics[-max(len(metrics) // 10, 1) :]
    row: dict[str, str | float] = {"weighting": name}
    row |= {key: summary(scores)[key] for key in ("AP", "AP50", "HOTA", "MOTA", "IDF1")}
    row |= {f"loss/{task}": float(np.mean([r[f"loss/{task}"] for r in tail])) for task in config.tasks}
    row |= {f"weight/{task}": metrics[-1][f"weight/{task}"] for task in config.tasks}
    return row | {"seconds": seconds}


def _annotate(video: VideoResult, config: Config, path: Path) -> None:
    dataset = open_dataset(config.data.dataset, config.data.data_dir)
    segment = video.segment
    tracks = [frame.tracks for frame in video.frames]
    annotate_video(
        (decode_image(dataset[segment.first + i].image) for i in range(segment.length)),
        [
            FrameTracks(t.boxes[t.mask], t.track_ids[t.mask], t.classes[t.mask], t.scores[t.mask])
            for t in tracks
        ],
        dataset.class_names,
        path,
        segment.sequence.frame_rate,
    )
