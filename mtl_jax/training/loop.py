"""The training loop: build the parts of a run, go on where it was, and take steps until the end."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mtl_jax import weighting
from mtl_jax.config import Config
from mtl_jax.data import pipeline
from mtl_jax.data.datasets import open_dataset
from mtl_jax.errors import UserError
from mtl_jax.models.dependence import shared_paths
from mtl_jax.models.network import MultiTaskNetwork
from mtl_jax.models.sharing import build_network
from mtl_jax.models.sharing.hard import Hard
from mtl_jax.progress import Progress
from mtl_jax.signals import stop_signals
from mtl_jax.tasks import TASKS
from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training.checkpoint import Checkpoints, write_description
from mtl_jax.training.metrics import MetricWriter
from mtl_jax.training.optimizer import learning_rate, make_optimizer
from mtl_jax.training.step import (
    Experiment,
    TrainState,
    init_state,
    make_diagnosis,
    make_step,
    takes_representation,
)

Evaluate = Callable[[Experiment, TrainState], dict[str, float]]


class Interrupted(Exception):
    """The run was stopped by a signal, after it saved a checkpoint."""


def build_experiment(config: Config, num_classes: int) -> Experiment:
    """Returns the parts that a configuration describes."""
    network = build_network(config.model, config.tasks, num_classes, config.data.clip_length)
    return Experiment(
        config=config,
        network=network,
        scheme=_make_scheme(config, network),
        optimizer=make_optimizer(config),
        num_classes=num_classes,
    )


def train(
    config: Config, workdir: Path, resume: bool = False, evaluate: Evaluate | None = None
) -> tuple[Experiment, TrainState]:
    """Trains, and leaves checkpoints, metrics and the configuration in `workdir`.

    The order in each round is: step, metrics, evaluation, checkpoint. A run that is stopped at any time and resumed
    ends with the same bits as one that was not.

    Args:
        config: The experiment.
        workdir: Directory of the run.
        resume: Go on from the last checkpoint in `workdir`; else there must be none.
        evaluate: Returns validation scores of a state; called every `training.evaluate_every` steps.

    Returns:
        The parts of the experiment and the last state.

    Raises:
        UserError: If something given is wrong, or the loss is no longer finite.
        Interrupted: After SIGINT or SIGTERM.
    """
    mesh = mesh_lib.make_mesh(config.mesh, config.data.batch_size)
    dataset = open_dataset(config.data.dataset, config.data.data_dir)
    experiment = build_experiment(config, len(dataset.class_names))
    checkpoints = Checkpoints(workdir)
    if checkpoints.steps() and not resume:
        raise UserError(
            f"{workdir}: there is a run already, at step {checkpoints.steps()[-1]}; go on with `mtl-jax train --resume "
            f"{workdir}`, or choose another --workdir"
        )

    load = None
    pretrained = config.model.pretrained
    if pretrained and not resume:

        def load(variables: Any) -> Any:
            from mtl_jax.models.pretrained import load_pretrained

            return load_pretrained(variables, config.model.backbone, pretrained)

    state = jax.device_put(init_state(experiment, load), mesh_lib.replicated(mesh))
    batches = pipeline.training_pipeline(
        config.data,
        config.training.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    write_description(workdir, config, dataset.class_names)
    if resume:
        state, data_state = checkpoints.restore(jax.tree.map(_abstract, state))
        batches.set_state(data_state)

    first_step = int(state.step)
    writer = MetricWriter(workdir, from_step=first_step)
    try:
        with stop_signals() as stop:
            state = _run(experiment, state, batches, mesh, writer, checkpoints, evaluate, stop)
    finally:
        writer.close()
        checkpoints.close()
    if stop.is_set():
        raise Interrupted(
            f"stopped at step {int(state.step)}, saved; go on with `mtl-jax train --resume {workdir}`"
        )
    return experiment, state


def _run(
    experiment: Experiment,
    state: TrainState,
    batches: Any,
    mesh: jax.sharding.Mesh,
    writer: MetricWriter,
    checkpoints: Checkpoints,
    evaluate: Evaluate | None,
    stop: threading.Event,
) -> TrainState:
    config, training = experiment.config, experiment.config.training
    everywhere, by_clip = mesh_lib.replicated(mesh), mesh_lib.split_batch(mesh)
    step_fn = jax.jit(
        make_step(experiment),
        in_shardings=(everywhere, by_clip),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )
    shared = shared_paths(experiment.network) if training.diagnose_every else frozenset()
    diagnose = jax.jit(
        make_diagnosis(experiment, shared.__contains__),
        in_shardings=(everywhere, by_clip),
        out_shardings=everywhere,
    )
    schedule = learning_rate(config)
    best_score = _best_score(writer, training.select_by)
    step, logged, since = int(state.step), int(state.step), time.perf_counter()

    with Progress("training", training.steps, completed=step) as progress:
        while step < training.steps and not stop.is_set():
            batch = mesh_lib.to_devices(next(batches), mesh)
            row: dict[str, float] = {}
            with jax.set_mesh(mesh):  # so that norm "local" knows what a device's share of the batch is
                if shared and step % training.diagnose_every == 0:
                    row |= _numbers(diagnose(state, batch))
                state, metrics = step_fn(state, batch)
            step += 1
            last = step == training.steps

            if row or step % training.log_every == 0 or last:
                row |= _numbers(metrics)
                now = time.perf_counter()
                row["learning_rate"] = float(schedule(step - 1))
                row["steps_per_second"] = (step - logged) / (now - since)
                logged, since = step, now
                writer.write(step, row)
                # A loss that the weighting left out does no harm; parameters that are no numbers stay so.
                if row["norm/parameters"] != row["norm/parameters"] or row["loss/total"] != row["loss/total"]:
                    culprits = [k for k, v in row.items() if k.startswith("loss/") and v != v]
                    raise UserError(
                        f"step {step}: {', '.join(culprits) or 'norm/parameters'} is not a number; lower "
                        "optimizer.learning_rate or optimizer.clip_norm (the last checkpoint is intact)"
                    )
                progress.advance(0, loss=row["loss/total"])
            progress.advance()

            if (
                evaluate is not None
                and training.evaluate_every
                and (step % training.evaluate_every == 0 or last)
            ):
                scores = evaluate(experiment, state)
                writer.write(step, {f"validation/{name}": value for name, value in scores.items()})
                if scores.get(training.select_by, float("-inf")) > best_score:
                    best_score = scores[training.select_by]
                    checkpoints.save_best(state, batches.get_state(), config)
                since = time.perf_counter()
            if step % training.checkpoint_every == 0 or last or stop.is_set():
                checkpoints.save(state, batches.get_state(), config)
                since = time.perf_counter()
    return state


def _make_scheme(config: Config, network: MultiTaskNetwork) -> weighting.Scheme:
    scheme, weights, tasks = config.weighting.scheme, config.weighting.weights, config.tasks
    hyperparameters: dict[str, Any] = dict(config.weighting.hyperparameters)
    if scheme not in weighting.names():
        raise UserError(f"weighting.scheme: found {scheme!r}; choose from {', '.join(weighting.names())}")
    if scheme in ("fixed", "cosmos", "pbi") or (scheme == "stch" and weights):
        if set(weights) != set(tasks):
            raise UserError(
                f"weighting.weights: found {', '.join(weights) or 'nothing'}; give {', '.join(tasks)}"
            )
        per_task = "weights" if scheme == "fixed" else "preference"
        hyperparameters[per_task] = [weights[task] for task in tasks]
    if scheme in ("auto_lambda", "predicted") and config.data.batch_size < 2:
        raise UserError(f"data.batch_size: found 1; {scheme} holds half of each batch out, so give 2 or more")
    if scheme == "uncertainty":
        hyperparameters["kinds"] = [TASKS[task].kind for task in tasks]
    if scheme in weighting.AGGREGATIONS:
        at_features = takes_representation(config.weighting)
        shared = shared_paths(network)
        if not shared:
            raise UserError(
                f"weighting.scheme: {scheme} combines the tasks' gradients of what they share, but with model.sharing "
                f"{config.model.sharing} that is nothing; choose a scheme that weighs losses, such as fixed"
            )
        if at_features and not isinstance(network, Hard):
            raise UserError(
                f"weighting.gradients: the representation is one feature map for all tasks, which model.sharing "
                f"{config.model.sharing} does not have; choose vmap or scan, or model.sharing hard"
            )
        hyperparameters["shared"] = weighting.is_representation if at_features else shared.__contains__
        if isinstance(prefix := hyperparameters.get("params"), str):
            hyperparameters["params"] = lambda path: path.startswith(prefix)
        averages = {"moco", "db_mtl", "excess_mtl"} & {scheme, hyperparameters.get("inner")}
        if at_features and (averages or "params" in hyperparameters):
            raise UserError(
                f"weighting.gradients: found representation, but {(*averages, 'params')[0]} needs the parameters' "
                "gradients; choose vmap or scan"
            )
        if config.weighting.every < 1 or (at_features and config.weighting.every > 1):
            raise UserError(
                f"weighting.every: found {config.weighting.every}; expected at least 1, and 1 at the representation, "
                "where finding weights costs next to nothing"
            )
    try:
        return weighting.make_default(scheme, len(tasks), **hyperparameters)
    except (TypeError, ValueError) as error:
        raise UserError(f"weighting.hyperparameters: {error}") from error


def _best_score(writer: MetricWriter, name: str) -> float:
    scores = [row[f"validation/{name}"] for row in writer.earlier if f"validation/{name}" in row]
    return max(scores, default=float("-inf"))


def _numbers(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
