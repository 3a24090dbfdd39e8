"""Finding and following objects in a video of one's own: result file, annotated video, speed."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax.data.mot_format import write_results
from mtl_jax.data.transforms import letterbox, warp
from mtl_jax.data.video import open_frames
from mtl_jax.inference import Predictor, Timing, average_variables, load_run, to_mot_rows
from mtl_jax.progress import track as progress
from mtl_jax.reporting.overlay import FrameTracks, annotate_video
from mtl_jax.training.checkpoint import read_classes


def track_video(run: Path, source: Path, output: Path) -> dict[str, Any]:
    """Follows the objects in a video with a trained run.

    Writes `NAME.txt` (MOTChallenge results), `NAME.mp4` (every object with class, identity and trail) and `NAME.json`
    (what is returned) into `output`. A video that turns unreadable is followed up to there, with a warning.

    Args:
        run: Directory of the run.
        source: A video file, or a folder of images.
        output: Where the files go.

    Returns:
        Frames, tracks, and frames per second of the `detector`, the `tracker` and `both`.

    Raises:
        UserError: If the run or the video cannot be read.
    """
    experiment, state = load_run(run)
    predictor, timing = Predictor(experiment, average_variables(state)), Timing()
    video = open_frames(source, warn=lambda line: print(f"warning: {line}"))
    size = experiment.config.data.image_size
    affine = letterbox((video.height, video.width), size)
    results = [
        result.tracks
        for result in progress(
            predictor.video((warp(frame, affine, size) for frame in video.frames()), timing),
            f"tracking {video.name}",
            video.length,
        )
    ]
    tracks = [t._replace(boxes=affine.inverse().boxes(np.asarray(t.boxes))) for t in results]

    output.mkdir(parents=True, exist_ok=True)
    write_results(output / f"{video.name}.txt", to_mot_rows(tracks))
    annotate_video(
        video.frames(),
        [
            FrameTracks(t.boxes[t.mask], t.track_ids[t.mask], t.classes[t.mask], t.scores[t.mask])
            for t in tracks
        ],
        read_classes(run),
        output / f"{video.name}.mp4",
        video.frame_rate,
    )
    identities = {int(i) for t in tracks for i in t.track_ids[t.mask]}
    summary = {"frames": len(tracks), "tracks": len(identities), **timing.frames_per_second()}
    (output / f"{video.name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
