"""The command line, `mtl-jax`: each command is a function whose arguments `tyro` reads.

Heavy imports are inside the commands, so that `--help` is quick.
"""

import dataclasses
import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mtl_jax.commands import Workdir
from mtl_jax.commands.architecture import describe_experiment, measure_affinity
from mtl_jax.commands.benchmark import (
    benchmark_data,
    benchmark_scaling,
    benchmark_sharing,
    benchmark_track,
    benchmark_tracking,
    benchmark_train,
    benchmark_weighting,
)
from mtl_jax.commands.experiment import read_experiment
from mtl_jax.commands.sweep import compare, runs, sweep, trial
from mtl_jax.commands.tracking import track_objects, tune_tracker
from mtl_jax.config import Config, DataConfig, Launch, MeshConfig, Split
from mtl_jax.errors import UserError

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
  sweep           train and score many configurations of one file; a stopped sweep goes on
  runs            list runs with status, step, score and time left
  compare         two runs side by side: what differs in configuration and scores
  evaluate        score a run, or any MOTChallenge result files
  track           find and follow objects in a video, or follow detections of any detector
  tune tracker    search a tracker's thresholds on videos with ground truth
  benchmark       times and memory as JSON: train, weighting, sharing, scaling, data, track, tracking

`mtl-jax COMMAND --help` tells a command's arguments.
"""

DATA_DIR = Path(DataConfig().data_dir)
NO_LAUNCH = Launch()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    With 0; 1 (nobody reads on); 2 (something given is wrong); 75 (a training run was asked to make room by SIGTERM, has
    saved, and can go on: what schedulers take for "try again"); or 130 (interrupted).
    """
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
        "describe": describe_experiment,
        "affinity": measure_affinity,
        "train": _train,
        "sweep": lambda rest: _run(sweep, rest, "mtl-jax sweep"),
        "trial": lambda rest: _run(trial, rest, "mtl-jax trial"),
        "runs": lambda rest: _run(runs, rest, "mtl-jax runs"),
        "compare": lambda rest: _run(compare, rest, "mtl-jax compare"),
        "evaluate": lambda rest: _run(evaluate, rest, "mtl-jax evaluate"),
        "track": track_objects,
        "tune tracker": tune_tracker,
        "benchmark train": lambda rest: _run(benchmark_train, rest, "mtl-jax benchmark train"),
        "benchmark weighting": lambda rest: _run(benchmark_weighting, rest, "mtl-jax benchmark weighting"),
        "benchmark sharing": lambda rest: _run(benchmark_sharing, rest, "mtl-jax benchmark sharing"),
        "benchmark data": benchmark_data,
        "benchmark scaling": lambda rest: _run(benchmark_scaling, rest, "mtl-jax benchmark scaling"),
        "benchmark track": benchmark_track,
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
    experiment, arguments, defaults = read_experiment(arguments)

    def train(
        workdir: Path,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
        launch: Annotated[Launch, tyro.conf.arg(name="")] = NO_LAUNCH,
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
            launch: The processes, where there are several.
        """
        _train_and_report(config, workdir, launch, resume=False)

    if "--resume" in arguments:
        _resume(arguments)
    elif experiment is None and not {"-h", "--help"} & set(arguments):
        raise UserError("train: no experiment; give a file such as experiments/pets2009.py, or --resume RUN")
    else:
        tyro.cli(train, args=arguments, prog="mtl-jax train EXPERIMENT")


def _resume(arguments: list[str]) -> None:
    """Reads `--resume RUN [--mesh.data N] [--mesh.fsdp N]`, and goes on; the run's own mesh is the default."""
    from mtl_jax.training.workdir import read_config

    named = arguments[arguments.index("--resume") + 1 :][:1]
    config = read_config(Path(named[0])) if named and not named[0].startswith("-") else Config()

    def resume_run(
        resume: Path,
        mesh: MeshConfig = config.mesh,
        launch: Annotated[Launch, tyro.conf.arg(name="")] = NO_LAUNCH,
    ) -> None:
        """Goes on with a run that was stopped, where it was: bit for bit, on as many devices.

        Args:
            resume: Directory of the run.
            mesh: The devices, which may be others than before.
            launch: The processes, where there are several.
        """
        _train_and_report(dataclasses.replace(config, mesh=mesh), resume, launch, resume=True)

    tyro.cli(resume_run, args=arguments, prog="mtl-jax train")


def _train_and_report(config: Config, workdir: Path, launch: Launch, resume: bool) -> None:
    from mtl_jax.evaluation.model import evaluate_state, summary
    from mtl_jax.inference import build_tracker
    from mtl_jax.training import cache, cpu, distributed
    from mtl_jax.training.loop import Interrupted, train
    from mtl_jax.training.step import Experiment, TrainState

    def evaluate(experiment: Experiment, state: TrainState) -> dict[str, float]:
        return summary(evaluate_state(experiment, state, "validation", workdir / "evaluation" / "validation"))

    build_tracker(config.tracker)  # what is wrong with it is said before an hour of training, not after
    cache.use(config.training.compilation_cache)
    cpu.prepare(config.data.batch_size)
    distributed.start(launch)
    try:
        train(config, workdir, resume=resume, evaluate=evaluate)
    except Interrupted as message:
        _fail(str(message), 130 if message.by_user else 75)
    if distributed.is_first():
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


if __name__ == "__main__":
    main()
