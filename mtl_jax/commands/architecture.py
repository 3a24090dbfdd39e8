"""`mtl-jax describe` and `mtl-jax affinity`: what tasks share, and what they had better share."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from mtl_jax.commands import Workdir
from mtl_jax.commands.experiment import read_experiment
from mtl_jax.config import Config
from mtl_jax.errors import UserError


def describe_experiment(arguments: list[str]) -> None:
    """Reads `EXPERIMENT [--sharing NAME ...] [--key value]`, and describes."""
    experiment, arguments, defaults = read_experiment(arguments)

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


def measure_affinity(arguments: list[str]) -> None:
    """Reads `EXPERIMENT --workdir RUN [--key value]`, and measures."""
    experiment, arguments, defaults = read_experiment(arguments)

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
