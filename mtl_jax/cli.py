"""The command line, `mtl-jax`: each command is a function whose arguments `tyro` reads.

Heavy imports are inside the commands, so that `--help` is quick.
"""

import errno
import json
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mtl_jax.config import Config, DataConfig, Split, TrackerConfig
from mtl_jax.errors import UserError
from mtl_jax.options import named_options, telling_options

_USAGE = """\
usage: mtl-jax COMMAND [ARGUMENTS]

Multi-task learning for video object detection and tracking.

commands:
  quickstart      data, training under two weightings, evaluation and report, in minutes on a CPU
  data prepare    make a data set of videos ready for training
  data inspect    draw a sheet of its frames with boxes, classes and identities
  convert-weights make published PyTorch weights of a backbone ready for --model.pretrained
  describe        what an experiment's network shares between tasks, and what that costs
  affinity        which tasks help which, and what they had better share
  train           train an experiment, or go on with one: train --resume RUN
  evaluate        score a run, or any MOTChallenge result files
  track           find and follow objects in a video, or follow detections of any detector
  tune tracker    search a tracker's thresholds on videos with ground truth
  benchmark       times and memory as JSON: benchmark weighting, sharing, tracking

`mtl-jax COMMAND --help` tells a command's arguments.
"""

DATA_DIR = Path(DataConfig().data_dir)
Workdir = Annotated[Path, tyro.conf.arg(metavar="DIR")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0, 1 (nobody reads on), 2 (something given is wrong) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(arguments)
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # as under `mtl-jax train --help | head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python fails as it flushes at its end
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(f"{error.filename or 'the disk'}: no space left; make room and run the command again", 2)


def _dispatch(arguments: list[str]) -> None:
    commands: dict[str, Callable[[list[str]], None]] = {
        "quickstart": lambda rest: _run(quickstart, rest, "mtl-jax quickstart"),
        "data prepare": lambda rest: _run(data_prepare, rest, "mtl-jax data prepare"),
        "data inspect": lambda rest: _run(data_inspect, rest, "mtl-jax data inspect"),
        "convert-weights": lambda rest: _run(convert_weights, rest, "mtl-jax convert-weights"),
        "describe": _describe,
        "affinity": _affinity,
        "train": _train,
        "evaluate": lambda rest: _run(evaluate, rest, "mtl-jax evaluate"),
        "track": _track,
        "tune tracker": _tune_tracker,
        "benchmark weighting": lambda rest: _run(benchmark_weighting, rest, "mtl-jax benchmark weighting"),
        "benchmark sharing": lambda rest: _run(benchmark_sharing, rest, "mtl-jax benchmark sharing"),
        "benchmark tracking": lambda rest: _run(benchmark_tracking, rest, "mtl-jax benchmark tracking"),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if arguments[0] == "--version":
        import mtl_jax

        print(mtl_jax.__version__)
        return
    words = 2 if arguments[0] in ("data", "benchmark", "tune") else 1
    name = " ".join(arguments[:words])
    if name not in commands:
        raise UserError(f"{name}: no such command; choose from {', '.join(commands)}")
    warnings.filterwarnings("ignore", module="orbax|tensorflow_datasets")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    commands[name](arguments[words:])


def _run(function: Callable[..., None], arguments: list[str], program: str) -> None:
    tyro.cli(function, args=arguments, prog=program)


def _fail(message: str, status: int) -> None:
    print(f"mtl-jax: {message}", file=sys.stderr)
    sys.exit(status)


def quickstart(workdir: Workdir = Path("runs/quickstart"), seed: int = 0) -> None:
    """Trains under fixed and learned weights on synthetic video, evaluates both, and writes a report.

    Args:
        workdir: Where everything goes.
        seed: The one seed of everything random.
    """
    from mtl_jax.quickstart import run

    run(workdir, seed)


def data_prepare(
    dataset: tyro.conf.Positional[str],
    data_dir: Path = DATA_DIR,
    source: Path | None = None,
    name: str | None = None,
) -> None:
    """Makes a data set ready for training.

    Args:
        dataset: `mot_challenge`, or `moving_objects/NAME` with NAME one of tiny, quickstart, standard, hard.
        data_dir: Where prepared data sets lie.
        source: For `mot_challenge`: a folder of sequences in MOTChallenge layout.
        name: For `mot_challenge`: a name, to keep several apart; it is then `mot_challenge/NAME`.
    """
    from mtl_jax.data.datasets import prepare

    if name is not None:
        dataset = f"{dataset}/{name}"
    prepared = prepare(dataset, data_dir, source=source)
    frames = sum(sequence.length for sequence in prepared.sequences)
    print(f"{dataset}: {len(prepared.sequences)} sequences, {frames} frames, in {data_dir}")


def data_inspect(
    dataset: tyro.conf.Positional[str],
    data_dir: Path = DATA_DIR,
    output: Path = Path("sheet.png"),
) -> None:
    """Draws a sheet of frames with boxes, classes and identities.

    Args:
        dataset: A prepared data set.
        data_dir: Where prepared data sets lie.
        output: The picture.
    """
    from mtl_jax.data.inspect import contact_sheet

    contact_sheet(dataset, data_dir, output)
    print(output)


def convert_weights(file: tyro.conf.Positional[Path], backbone: str, output: Path) -> None:
    """Makes published PyTorch weights of a backbone ready for `--model.pretrained OUTPUT`; needs no PyTorch.

    Reads torchvision's files of resnet18, 34, 50, 101 and convnext_tiny, and timm's of these, of dla34,
    vit_small_patch16_224 and tf_efficientnet_lite0 to 4.

    Args:
        file: Safetensors file, or state dictionary of PyTorch, of which nothing but tensors is read.
        backbone: Name of the backbone.
        output: Safetensors file to write.
    """
    from mtl_jax.models.convert import convert_file

    number = convert_file(file, backbone, output)
    print(
        f"{output}: {number} arrays of {backbone}; next: mtl-jax train EXPERIMENT --model.pretrained {output}"
    )


def _train(arguments: list[str]) -> None:
    """Reads `EXPERIMENT --workdir RUN [--key value]` or `--resume RUN`, and trains.

    The experiment file gives the defaults of the configuration's options, so it is read first.
    """
    experiment, arguments, defaults = _read_experiment(arguments)

    def train(
        workdir: Path,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
    ) -> None:
        """Trains the experiment that a file describes; every field of its configuration is an option.

        `mtl-jax train EXPERIMENT --workdir RUN [--any.config.field VALUE]`, or `mtl-jax train --resume RUN` to go on
        where a stopped run was.

        `--weighting NAME` chooses another loss weighting scheme, and `--weighting.HYPERPARAMETER VALUE` sets what that
        one has: `--weighting cagrad --weighting.c 0.4`. `--tracker NAME` and `--tracker.OPTION VALUE` do the same for
        the tracker, `--model.sharing NAME` and `--model.sharing.OPTION VALUE` for what tasks share.

        Args:
            workdir: Directory of the run.
            config: The configuration.
        """
        _train_and_report(config, workdir, resume=False)

    if "--resume" in arguments:
        tyro.cli(resume_run, args=arguments, prog="mtl-jax train")
    elif experiment is None and not {"-h", "--help"} & set(arguments):
        raise UserError("train: no experiment; give a file such as experiments/pets2009.py, or --resume RUN")
    else:
        tyro.cli(train, args=arguments, prog="mtl-jax train EXPERIMENT")


def _read_experiment(arguments: list[str]) -> tuple[str | None, list[str], Config]:
    """Returns the experiment's file, if the first argument is one, the other arguments, and its configuration.

    Options of what is chosen by name are in the configuration already.
    """
    experiment = next((a for a in arguments[:1] if not a.startswith("-")), None)
    config = load_experiment(Path(experiment)) if experiment else Config()
    arguments = arguments[1:] if experiment else arguments
    arguments, config = named_options(arguments, config, "weighting", "scheme", "hyperparameters")
    arguments, config = named_options(arguments, config, "tracker", "name", "options")
    arguments, config = named_options(
        arguments, config, "model", "sharing", "sharing_options", "--model.sharing"
    )
    return experiment, arguments, config


def _describe(arguments: list[str]) -> None:
    """Reads `EXPERIMENT [--sharing NAME ...] [--key value]`, and describes."""
    experiment, arguments, defaults = _read_experiment(arguments)

    def describe(
        sharing: tuple[str, ...] = (),
        classes: int = 0,
        plot: Path | None = None,
        json_only: Annotated[bool, tyro.conf.arg(name="json")] = False,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
    ) -> None:
        """Tells which parameters of an experiment's network which tasks use, and what it costs; nothing is trained.

        `mtl-jax describe EXPERIMENT [--model.sharing NAME] [--plot FILE.png]`; `--sharing hard mtan mmoe` compares
        several architectures. Every field of the configuration is an option, as in `mtl-jax train`.

        Args:
            sharing: Architectures to compare, or `all`; the experiment's own, if empty.
            classes: Classes of objects; 0: as many as the data set has, one where it is not prepared.
            plot: Where to draw the network, as PNG, SVG or PDF; with several, a file each, `FILE_NAME.png`.
            json_only: Print one JSON object and nothing else.
            config: The configuration.
        """
        from mtl_jax.describe import compare
        from mtl_jax.reporting import tables

        described = compare(config, sharing, classes, plot)
        if json_only:
            print(json.dumps(described, indent=2))
            return
        rows = [{"sharing": name} | entry["costs"] for name, entry in described.items()]
        tables.print_table(rows, [tables.Column(key, key, *_style(key)) for key in rows[0]])
        for name, entry in described.items():
            parts = [
                part
                | {"tasks": "all" if len(part["tasks"]) == len(config.tasks) else ", ".join(part["tasks"])}
                for part in entry["parts"]
            ]
            print(f"\n{name}: which tasks' gradients reach which parameters")
            tables.print_table(parts, [tables.Column(key, key, *_style(key)) for key in parts[0]])

    if experiment is None and not {"-h", "--help"} & set(arguments):
        raise UserError("describe: no experiment; give a file such as experiments/pets2009.py")
    tyro.cli(describe, args=arguments, prog="mtl-jax describe EXPERIMENT")


def _affinity(arguments: list[str]) -> None:
    """Reads `EXPERIMENT --workdir RUN [--key value]`, and measures."""
    experiment, arguments, defaults = _read_experiment(arguments)

    def affinity(
        workdir: Workdir,
        times: int = 10,
        batches: int = 4,
        budget: float = 1.5,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
    ) -> None:
        """Trains an experiment, measures which tasks help which, and proposes what to share.

        `mtl-jax affinity EXPERIMENT --workdir RUN`. Every field of the configuration is an option, as in
        `mtl-jax train`.

        Args:
            workdir: Where the run goes, and affinity.json, affinity.png and cosines.png.
            times: How often is measured while it trains.
            batches: Batches of each measurement.
            budget: Operations that the proposed tree may have, relative to hard sharing.
            config: The configuration.
        """
        from mtl_jax.affinity import measure
        from mtl_jax.reporting import tables
        from mtl_jax.training import cpu

        cpu.prepare(config.data.batch_size)
        result = measure(config, workdir, times, batches, budget)
        tasks = result["tasks"]
        print("A step for the row's task lowers the column's loss by ... percent:")
        rows = [
            {"": task} | {other: 100 * z for other, z in zip(tasks, row, strict=True)}
            for task, row in zip(tasks, result["affinity"]["mean"], strict=True)
        ]
        tables.print_table(rows, [tables.Column(key, key, ".2f", None) for key in rows[0]])
        for entry in result["groups"]:
            groups = " | ".join(" ".join(group) for group in entry["groups"])
            print(f"best in {entry['networks']}: {groups}")
        tree = result["tree"]
        if tree:
            options = f"--model.sharing tree --model.sharing.tree '{tree}'"
            print(f"proposed: mtl-jax train {experiment} --workdir RUN {options}")
        else:
            print(
                f"proposed: hard sharing; no tree within {budget:g} times its operations parts what conflicts"
            )
        print(f"{workdir}: affinity.json, affinity.png, cosines.png")

    if experiment is None and not {"-h", "--help"} & set(arguments):
        raise UserError("affinity: no experiment; give a file such as experiments/pets2009.py")
    tyro.cli(affinity, args=arguments, prog="mtl-jax affinity EXPERIMENT")


def _style(key: str) -> tuple[str, None]:
    """Returns the format of a column of `describe`; none has a best value."""
    return (".3g" if key.endswith(("FLOPs", "MiB")) else ",d"), None


def resume_run(resume: Path) -> None:
    """Goes on with a run that was stopped, where it was, bit for bit.

    Args:
        resume: Directory of the run.
    """
    from mtl_jax.training.checkpoint import read_config

    _train_and_report(read_config(resume), resume, resume=True)


def _train_and_report(config: Config, workdir: Path, resume: bool) -> None:
    from mtl_jax.evaluation.model import evaluate_state, summary
    from mtl_jax.inference import build_tracker
    from mtl_jax.training import cpu
    from mtl_jax.training.loop import Interrupted, train
    from mtl_jax.training.step import Experiment, TrainState

    def evaluate(experiment: Experiment, state: TrainState) -> dict[str, float]:
        return summary(evaluate_state(experiment, state, "validation", workdir / "evaluation" / "validation"))

    build_tracker(config.tracker)  # what is wrong with it is said before an hour of training, not after
    cpu.prepare(config.data.batch_size)
    try:
        train(config, workdir, resume=resume, evaluate=evaluate)
    except Interrupted as message:
        _fail(str(message), 130)
    print(f"{workdir}: trained; next: mtl-jax evaluate {workdir}")


def evaluate(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    split: Split = "validation",
    gt: Path | None = None,
    results: Path | None = None,
    output: Path | None = None,
    json_only: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Scores a run on a split, or any MOTChallenge result files against ground truth.

    Args:
        run: Directory of a run.
        split: What to score the run on.
        gt: Ground truth in MOTChallenge layout, for result files.
        results: Folder of result files, `SEQUENCE.txt`.
        output: For a run: where result files, ground truth and scores go; RUN/evaluation/SPLIT by default.
        json_only: Print one JSON object and nothing else.
    """
    if (run is None) == (gt is None) or (gt is None) != (results is None):
        raise UserError("evaluate: give the directory of a run, or both --gt and --results")
    from mtl_jax.reporting import tables

    if gt is not None and results is not None:
        from mtl_jax.evaluation.mot import evaluate_mot

        scores = evaluate_mot(gt, results)
        rows = [{"sequence": name, **row} for name, row in scores["sequences"].items()]
        rows.append({"sequence": "combined", **scores["combined"]})
        names = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW")
        columns = [tables.Column("sequence", "sequence")]
        # The rows are not rivals, so none is the best.
        columns += [tables.Column(name, name, "d" if name == "IDSW" else ".1f", best=None) for name in names]
    elif run is not None:
        from mtl_jax.evaluation.model import evaluate_state, summary
        from mtl_jax.inference import load_run

        output = output or run / "evaluation" / split
        scores = evaluate_state(*load_run(run), split, output)
        rows, columns = [{"split": split, **summary(scores)}], None
    if json_only:
        print(json.dumps(scores, indent=2))
    else:
        tables.print_table(rows, columns)
        if run is not None:
            print(f"{output}: result files, and all scores in scores.json")


def _track(arguments: list[str]) -> None:
    """Reads `RUN --source VIDEO --output OUT` or `--detections ROOT --tracker NAME --output OUT`, and tracks."""
    own = not any(argument.startswith("--tracker") for argument in arguments)
    arguments, chosen = named_options(arguments, Config(), "tracker", "name", "options")

    def track(
        output: Path,
        run: Annotated[Path | None, tyro.conf.Positional] = None,
        source: str | None = None,
        detections: Path | None = None,
        interpolate: int = 0,
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
        """
        if (run is None) != (source is None) or (run is None) == (detections is None):
            raise UserError("track: give the directory of a run and --source, or --detections")
        from mtl_jax.track import track_detections, track_video

        if run is not None and source is not None:
            print(
                json.dumps(
                    track_video(run, source, output, None if own else chosen.tracker, interpolate), indent=2
                )
            )
        elif detections is not None:
            _print_tracked(track_detections(detections, chosen.tracker, output, interpolate), output)

    _run(telling_options(track, arguments, chosen), arguments, "mtl-jax track")


def _tune_tracker(arguments: list[str]) -> None:
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

    _run(telling_options(tune, arguments, chosen), arguments, "mtl-jax tune tracker")


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


def benchmark_weighting(
    tasks: tuple[int, ...] = (2, 4, 8, 16, 40),
    parameters: tuple[int, ...] = (1_000_000, 25_000_000),
    schemes: tuple[str, ...] = (),
    batch: int = 256,
    repeats: int = 9,
) -> None:
    """Times every loss weighting scheme beside a plain step, and prints JSON.

    Args:
        tasks: Numbers of tasks.
        parameters: Numbers of parameters that tasks share, about.
        schemes: Names; all, if not given.
        batch: Examples in a batch.
        repeats: Runs of which medians are taken.
    """
    from mtl_jax.benchmark import weighting
    from mtl_jax.training import cpu

    cpu.prepare(1)  # as training does, but for one device
    try:
        print(json.dumps(weighting.run(tasks, parameters, schemes, batch, repeats), indent=2))
    except ValueError as error:
        raise UserError(f"benchmark weighting: {error}") from error


def benchmark_sharing(
    sharing: tuple[str, ...] = (),
    backbone: str = "tiny",
    image_size: tuple[int, int] = (96, 128),
    batch: int = 8,
    repeats: int = 9,
) -> None:
    """Times a training step of each sharing architecture, beside that of one task with the same backbone, as JSON.

    Args:
        sharing: Architectures; all, if none is given.
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch.
        repeats: Runs of which the median is taken.
    """
    from mtl_jax.benchmark.sharing import run
    from mtl_jax.training import cpu

    cpu.prepare(1)  # as training does, but for one device
    print(json.dumps(run(sharing, backbone, image_size, batch, repeats), indent=2))


def benchmark_tracking(
    objects: tuple[int, ...] = (7, 100, 300),
    streams: tuple[int, ...] = (1, 16, 64, 256),
    trackers: tuple[str, ...] = (),
    repeats: int = 5,
) -> None:
    """Times trackers, on one core where there is no accelerator, and prints JSON.

    Where the library `trackers` is installed, its trackers of the same names take turns with ours.

    Args:
        objects: Numbers of objects in a stream.
        streams: Numbers of streams that are followed at once.
        trackers: Names; all, if not given.
        repeats: Runs of which medians are taken.
    """
    if hasattr(os, "sched_setaffinity"):
        # Before JAX starts its threads. An accelerator does not mind.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from mtl_jax.benchmark import tracking

    try:
        print(json.dumps(tracking.run(objects, streams, trackers, repeats), indent=2))
    except ValueError as error:
        raise UserError(f"benchmark tracking: {error}") from error


def load_experiment(path: Path) -> Config:
    """Returns the `config` that an experiment file defines.

    Raises:
        UserError: If the file is missing, does not run, or defines no `config`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such experiment; give a Python file that defines `config`")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        line = next((f":{f.lineno}" for f in _frames(error) if f.filename == str(path)), "")
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"{path}: defines no `config` of type mtl_jax.config.Config")
    return config


def _frames(error: Exception) -> list:
    import traceback

    return list(reversed(traceback.extract_tb(error.__traceback__)))


if __name__ == "__main__":
    main()
