"""How tasks share parameters: every architecture on the embedded video, with the same budget and the same seeds.

Data, steps, optimizer and weighting are the same for all; nothing is selected or tuned for any of them. `single` has a
network for each task and is what Δm compares with. Scores are those after the last step, on test videos. A comparison
that was stopped goes on with what is missing.

    python experiments/sharing.py --output runs/sharing
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import tyro

from mtl_jax.config import Config, ModelConfig, WeightingConfig
from mtl_jax.data.datasets import prepare
from mtl_jax.describe import describe
from mtl_jax.errors import UserError
from mtl_jax.evaluation.delta import delta_m, is_comparable
from mtl_jax.evaluation.model import evaluate_state, summary
from mtl_jax.models.sharing import SHARING, build_network
from mtl_jax.quickstart import config as quickstart_config
from mtl_jax.reporting.tables import Column, print_table, to_markdown
from mtl_jax.training import cpu
from mtl_jax.training.loop import train
from mtl_jax.training.metrics import read_metrics
from mtl_jax.training.workdir import read_classes

OPTIONS: dict[str, dict[str, bool | int | float | str]] = {
    "tree": {"tree": "(box classification | motion identity)@2"},
}
SCORES = {"AP": True, "HOTA": True, "rank1": True, "motion_error": False}
"""What tasks are judged by, and whether more is better: detection, tracking, identity, motion."""


def experiment(sharing: str, seed: int, steps: int, data_dir: Path, scheme: str = "equal") -> Config:
    """Returns the experiment: the quickstart's, with another architecture and weighting."""
    config = quickstart_config("uncertainty", data_dir, seed)
    training = dataclasses.replace(
        config.training, steps=steps, diagnose_every=0, checkpoint_every=steps, log_every=50
    )
    return dataclasses.replace(
        config,
        name=f"sharing-{sharing}",
        model=ModelConfig(backbone="tiny", sharing=sharing, sharing_options=OPTIONS.get(sharing, {})),
        weighting=WeightingConfig(scheme=scheme),
        training=training,
    )


def run(config: Config, workdir: Path) -> dict:
    """Returns the scores of a run, which it trains if it is not there."""
    path = workdir / "result.json"
    same = {"steps": config.training.steps, "weighting": config.weighting.scheme}
    if path.exists():
        result = json.loads(path.read_text())
        if same.items() <= result.items():
            return result
    shutil.rmtree(workdir, ignore_errors=True)  # what a stopped comparison left of it
    trained, state = train(config, workdir)
    scores = summary(evaluate_state(trained, state, "test", workdir / "evaluation"))
    rates = [row["steps_per_second"] for row in read_metrics(workdir) if "steps_per_second" in row]
    rates = rates[1:] or rates  # the first has compilation in it
    result = same | {
        "ms per step": 1e3 / float(np.median(rates)),
        "scores": {name: scores.get(name) for name in SCORES},
    }
    path.write_text(json.dumps(result) + "\n")
    return result


def table(results: dict[str, list[dict]], costs: dict[str, dict]) -> list[dict]:
    """Returns a row an architecture: means and deviations of the scores, Δm against single networks, and costs."""

    def scores(name: str) -> np.ndarray:
        return np.array([[row["scores"][key] for key in SCORES] for row in results[name]], float)

    baseline = scores("single").mean(axis=0)
    rows = []
    for name in results:
        found = scores(name)
        row = {"sharing": name}
        for key, values in zip(SCORES, found.T, strict=True):
            if np.isfinite(values).all():
                row |= {key: values.mean(), f"{key} ±": values.std()}
        if is_comparable(baseline):
            deltas = delta_m(found, baseline, tuple(SCORES.values()))
            row |= {"Δm": deltas.mean(), "Δm ±": deltas.std()}
        row |= {"ms per step": float(np.median([r["ms per step"] for r in results[name]]))}
        rows.append(row | costs[name])
    return sorted(rows, key=lambda row: row.get("Δm", 0))


def main(
    output: Path = Path("runs/sharing"),
    sharing: tuple[str, ...] = tuple(SHARING),
    seeds: int = 3,
    steps: int = 1800,
    weighting: str = "equal",
) -> None:
    """Trains every architecture and leaves a table.

    Args:
        output: Where data, runs and the table go.
        sharing: Architectures; `single` is always there.
        seeds: Number of seeds.
        steps: Steps of each run.
        weighting: Weighting scheme of all; with `equal` it counts how large losses are where tasks share.
    """
    data_dir = output / "data"
    prepare("moving_objects/quickstart", data_dir)
    cpu.prepare(experiment("hard", 0, steps, data_dir).data.batch_size)
    results: dict[str, list[dict]] = {}
    costs: dict[str, dict] = {}
    for name in dict.fromkeys(("single", *sharing)):
        runs = [
            (experiment(name, seed, steps, data_dir, weighting), output / name / f"seed{seed}")
            for seed in range(seeds)
        ]
        results[name] = [run(config, workdir) for config, workdir in runs]
        config, workdir = runs[0]
        network = build_network(
            config.model, config.tasks, len(read_classes(workdir)), config.data.clip_length
        )
        described = describe(network, config.data.image_size)
        costs[name] = {"parameters": described.parameters, "GFLOPs": described.flops / 1e9}
        # After each, so that what is there can be looked at.
        rows = table(results, costs)
        columns = [Column("sharing", "sharing")]
        for key in dict.fromkeys(key for row in rows for key in row):
            if key != "sharing":
                style = ",d" if key == "parameters" else ".3g" if key == "GFLOPs" else ".1f"
                best = {True: "max", False: "min", None: None}[SCORES.get(key)]
                columns.append(Column(key, key, style, best="min" if key == "Δm" else best))
        (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
        (output / "results.md").write_text(to_markdown(rows, columns) + "\n")
    print_table(rows, columns)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"sharing: {error}") from error
