"""The training loop: build the parts of a run, go on where it was, and take steps until the end."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mtl_jax.config import Config
from mtl_jax.data import pipeline
from mtl_jax.data.datasets import open_dataset
from mtl_jax.models.dependence import shared_paths
from mtl_jax.models.sharing import build_network
from mtl_jax.progress import Progress
from mtl_jax.signals import Stop, stop_signals
from mtl_jax.training import distributed
from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training import workdir as workdir_lib
from mtl_jax.training.checkpoint import Checkpoints
from mtl_jax.training.clock import Clock
from mtl_jax.training.metrics import MetricWriter
from mtl_jax.training.optimizer import learning_rate, make_optimizer
from mtl_jax.training.profiler import Profiler
from mtl_jax.training.scheme import make_scheme
from mtl_jax.training.step import Experiment, TrainState, init_state, make_diagnosis, make_step
from mtl_jax.training.watch import Watch

Evaluate = Callable[[Experiment, TrainState], dict[str, float]]


class Interrupted(Exception):
    """The run was stopped by a signal, after it saved a checkpoint.

    Attributes:
        by_user: By SIGINT; else the machine was taken away, by SIGTERM.
    """

    def __init__(self, message: str, by_user: bool):
        super().__init__(message)
        self.by_user = by_user


def build_experiment(config: Config, num_classes: int) -> Experiment:
    """Returns the parts that a configuration describes."""
    network = build_network(config.model, config.tasks, num_classes, config.data.clip_length)
    return Experiment(
        config=config,
        network=network,
        scheme=make_scheme(config, network),
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
        workdir: Directory of the run; all processes see the same one.
        resume: Go on from the last checkpoint in `workdir`, or from the start if none was saved; else there must be
            none.
        evaluate: Returns validation scores of a state; called every `training.evaluate_every` steps.

    Returns:
        The parts of the experiment and the last state.

    Raises:
        UserError: If something given is wrong, or gradients stay not finite.
        Interrupted: After SIGINT or SIGTERM.
    """
    clock = Clock()
    mesh = mesh_lib.make_mesh(config.mesh, config.data.batch_size)
    profiler = Profiler(config.profile, workdir)
    dataset = open_dataset(config.data.dataset, config.data.data_dir)
    experiment = build_experiment(config, len(dataset.class_names))
    with workdir_lib.locked(workdir), Checkpoints(workdir) as checkpoints:
        resume = resume and bool(checkpoints.steps())  # what was killed before it saved starts anew
        if not resume:
            workdir_lib.begin(workdir, config, dataset.class_names, checkpoints.steps())
        state = _initial_state(experiment, mesh, resume)
        batches = pipeline.training_pipeline(
            config.data,
            config.training.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        if resume:
            state, data_state = checkpoints.restore(jax.tree.map(_abstract, state))
            batches.set_state(data_state)
        with MetricWriter(workdir, int(state.step), distributed.is_first()) as writer, stop_signals() as stop:
            validation = _Validation(experiment, mesh, evaluate, writer, checkpoints, batches)
            state = _run(
                experiment,
                state,
                batches,
                workdir,
                mesh,
                writer,
                checkpoints,
                validation,
                stop,
                clock,
                profiler,
            )
    if stop.is_set():
        raise Interrupted(
            f"stopped at step {int(state.step)}, saved; go on with `mtl-jax train --resume {workdir}`",
            by_user=stop.number == signal.SIGINT,
        )
    return experiment, state


def _initial_state(experiment: Experiment, mesh: jax.sharding.Mesh, resume: bool) -> TrainState:
    """Returns the state before the first step, on the devices; without pretrained weights if it is restored anyway."""
    load = None
    pretrained = experiment.config.model.pretrained
    if pretrained and not resume:

        def load(variables: Any) -> Any:
            from mtl_jax.models.pretrained import load_pretrained

            return load_pretrained(variables, experiment.config.model.backbone, pretrained)

    state = init_state(experiment, load)
    return mesh_lib.place(state, mesh_lib.split_state(state, mesh))


def _run(
    experiment: Experiment,
    state: TrainState,
    batches: Any,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    writer: MetricWriter,
    checkpoints: Checkpoints,
    validation: "_Validation",
    stop: Stop,
    clock: Clock,
    profiler: Profiler,
) -> TrainState:
    config, training = experiment.config, experiment.config.training
    everywhere, by_clip = mesh_lib.replicated(mesh), mesh_lib.split_batch(mesh)
    as_split = mesh_lib.split_state(state, mesh)
    step_fn = jax.jit(
        make_step(experiment),
        in_shardings=(as_split, by_clip),
        out_shardings=(as_split, everywhere),
        donate_argnums=0,
    )
    shared = shared_paths(experiment.network) if training.diagnose_every else frozenset()
    diagnose = jax.jit(
        make_diagnosis(experiment, shared.__contains__),
        in_shardings=(as_split, by_clip),
        out_shardings=everywhere,
    )
    schedule = learning_rate(config)
    watch = Watch(experiment, state, workdir)
    step = int(state.step)

    with Progress("training", training.steps, completed=step) as progress, profiler:
        validation.run_if_due(state, step, stop)
        while step < training.steps and not stop.is_set():
            with clock.waiting():
                local_batch = next(batches)
                batch = mesh_lib.to_devices(local_batch, mesh)
            row: dict[str, float] = {}
            profiler.before(step)
            with jax.set_mesh(mesh):  # so that it is known what a device's share of the batch is
                if shared and step % training.diagnose_every == 0:
                    row |= _numbers(diagnose(state, batch))
                state, metrics = step_fn(state, batch)
            step += 1
            profiler.after(step, state)
            # Looks at the step before: to wait for this one would keep the device idle.
            watch.add(step, metrics.pop("finite"), metrics, local_batch)
            if distributed.is_preempted(step):
                stop.set()
            last = step == training.steps

            if row or step % training.log_every == 0 or last:
                row |= _numbers(metrics)
                row |= {"learning_rate": float(schedule(step - 1))} | clock.read(step)
                writer.write(step, row)
                progress.advance(0, loss=row["loss/total"])
            progress.advance()
            if last or stop.is_set():
                watch.finish()
            with clock.aside():
                if not stop.is_set():
                    validation.run_if_due(state, step, stop)
                if step % training.checkpoint_every == 0 or last or stop.is_set():
                    checkpoints.save(state, batches.get_state(), config)
    return state


class _Validation:
    """Evaluates every `training.evaluate_every` steps and at the end, and keeps the best checkpoint.

    A run that was stopped in between evaluates when it goes on.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: jax.sharding.Mesh,
        evaluate: Evaluate | None,
        writer: MetricWriter,
        checkpoints: Checkpoints,
        batches: Any,
    ):
        self._experiment, self._mesh, self._evaluate = experiment, mesh, evaluate
        self._writer, self._checkpoints, self._batches = writer, checkpoints, batches
        self._key = f"validation/{experiment.config.training.select_by}"
        scored = [row for row in writer.earlier if any(key.startswith("validation/") for key in row)]
        self._done = {row["step"] for row in scored}
        self._best = max((row[self._key] for row in scored if self._key in row), default=float("-inf"))

    def run_if_due(self, state: TrainState, step: int, stop: Stop) -> None:
        """Evaluates if it is time to; who stops the run then, stops that, and it is done when the run goes on."""
        training = self._experiment.config.training
        if self._evaluate is None or not training.evaluate_every or step == 0 or step in self._done:
            return
        if step % training.evaluate_every and step != training.steps:
            return
        scores: dict[str, float] = {}
        # Where there are several processes, the first evaluates, on a device of its own.
        average = mesh_lib.gather(state.average, self._mesh)
        if distributed.is_first():
            with stop.at_once() as finished:
                scores = self._evaluate(self._experiment, state._replace(average=average))
            if not finished:
                return
        scores = {f"validation/{name}": value for name, value in scores.items()}
        score = distributed.of_first(scores.get(self._key, float("-inf")))
        if score > self._best:
            self._best = score
            self._checkpoints.save_best(state, self._batches.get_state(), self._experiment.config)
        self._writer.write(step, scores)
        self._done.add(step)


def _numbers(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
