"""`mtl-jax track` and `mtl-jax tune tracker`."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from mtl_jax.config import Config, TrackerConfig
from mtl_jax.errors import UserError
from mtl_jax.options import named_options, telling_options


def track_objects(arguments: list[str]) -> None:
    """Reads `RUN --source VIDEO --output OUT` or `--detections ROOT --tracker NAME --output OUT`, and tracks."""
    own = not any(argument.startswith("--tracker") for argument in arguments)
    arguments, chosen = named_options(arguments, Config(), "tracker", "name", "options")

    def track(
        output: Path,
        run: Annotated[Path | None, tyro.conf.Positional] = None,
        source: str | None = None,
        detections: Path | None = None,
        interpolate: int = 0,
        batch: int = 1,
    ) -> None:
        """Finds and follows objects in a video with a run, or follows detections of any detector.

        `mtl-jax track RUN --source VIDEO --output OUT` writes MOTChallenge results and an annotated MP4;
        `mtl-jax track --detections ROOT --tracker NAME --output OUT` results for every sequence below ROOT that has
        `det/det.txt`, and prints scores where there is ground truth. `--tracker NAME` chooses another tracker, and
        `--tracker.OPTION VALUE` sets what that one has: `--tracker ocsort --tracker.max-lost 60`.

        Args:
            output: Where the results go.
            run: Directory of a run.
            source: A video file, a folder of images, the number of a camera (`0`), or an address (`rtsp://`, `http://`).
            detections: Folder of sequences in MOTChallenge layout.
            interpolate: Longest gap in a track, in frames, that is filled afterwards; 0: none is.
            batch: Frames of a video that go to the device at once: for files, where only the last result counts.
        """
        if (run is None) != (source is None) or (run is None) == (detections is None):
            raise UserError("track: give the directory of a run and --source, or --detections")
        from mtl_jax.track import track_detections, track_video

        if run is not None and source is not None:
            tracker = None if own else chosen.tracker
            print(json.dumps(track_video(run, source, output, tracker, interpolate, batch), indent=2))
        elif detections is not None:
            _print_tracked(track_detections(detections, chosen.tracker, output, interpolate), output)

    tyro.cli(telling_options(track, arguments, chosen), args=arguments, prog="mtl-jax track")


def tune_tracker(arguments: list[str]) -> None:
    """Reads `--detections ROOT --tracker NAME`, and tunes."""
    arguments, chosen = named_options(arguments, Config(), "tracker", "name", "options")

    def tune(
        detections: Path,
        trials: int = 64,
        metric: str = "HOTA",
        seed: int = 0,
        output: Path | None = None,
    ) -> None:
        """Searches a tracker's thresholds on detections with ground truth; prints the best as options.

        `mtl-jax tune tracker --detections ROOT --tracker NAME`. The tracker as it is, with `--tracker.OPTION VALUE` as
        given, is the first trial.

        Args:
            detections: Folder of sequences in MOTChallenge layout, with `det/det.txt` and `gt/gt.txt`.
            trials: Settings that are tried.
            metric: Score whose mean over the sequences is to be high: HOTA, IDF1, MOTA, ...
            seed: Seed of the settings.
            output: JSON file for all trials.
        """
        from mtl_jax import tracking
        from mtl_jax.inference import build_tracker
        from mtl_jax.track import read_sequences
        from mtl_jax.tune import tune as search

        rows, truth, lengths = read_sequences(detections)
        if missing := sorted(set(rows) - set(truth)):
            raise UserError(f"{detections}: no gt/gt.txt for {', '.join(missing)}; add it, or leave them out")
        _, capacity = tracking.table_sizes(max(map(tracking.most_in_a_frame, rows.values())))
        config = TrackerConfig(chosen.tracker.name, {"capacity": capacity} | chosen.tracker.options)
        found = search(build_tracker(config), rows, truth, lengths, trials, metric, seed)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(found, indent=2) + "\n")
        words = [f"--tracker.{name.replace('_', '-')} {value}" for name, value in found["options"].items()]
        print(f"--tracker {config.name} " + " ".join(words))
        held_out = f", {found['held_out']:.1f} on sequences left out" if found["held_out"] is not None else ""
        print(f"mean {metric}: {found['best']:.1f} (as given {found['given']:.1f}{held_out})")

    tyro.cli(telling_options(tune, arguments, chosen), args=arguments, prog="mtl-jax tune tracker")


def _print_tracked(summary: dict, output: Path) -> None:
    from mtl_jax.reporting import tables

    scores = summary.get("scores", {"sequences": {}})
    rows = [
        {"sequence": name, **row, **scores["sequences"].get(name, {})}
        for name, row in summary["sequences"].items()
    ]
    frames = sum(row["frames"] for row in rows)
    combined = {
        "sequence": "combined",
        "frames": frames,
        "us_per_frame": sum(row["frames"] * row["us_per_frame"] for row in rows) / max(frames, 1),
    }
    rows.append(combined | scores.get("combined", {}))
    names = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW") if len(scores["sequences"]) else ()
    columns = [tables.Column("sequence", "sequence"), tables.Column("frames", "frames", "d")]
    columns += [tables.Column("us_per_frame", "µs/frame", ".0f")]
    columns += [tables.Column(name, name, "d" if name == "IDSW" else ".1f", best=None) for name in names]
    tables.print_table(rows, columns)
    print(f"{output}: result files; compiled in {summary['compile_s']['scan']:.1f} s, not counted")
