"""The training step: one pure function `(state, batch) -> (state, metrics)`.

Everything that learns or remembers is in the state; everything random is a function of the seed and the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from mtl_jax import weighting
from mtl_jax.config import Config, ModelConfig, Task, WeightingConfig
from mtl_jax.data.device_augment import augment
from mtl_jax.models.network import Features, Frames, MultiTaskNetwork, initialize
from mtl_jax.structures import Batch
from mtl_jax.tasks import STRIDE, TASKS, batch_targets
from mtl_jax.tasks.targets import perturb_objects, render_heatmap
from mtl_jax.training import guard as guard_lib
from mtl_jax.training.accumulate import in_parts
from mtl_jax.training.guard import Guard, scale_gradient
from mtl_jax.training.mesh import constrain_gradients, devices_in_force, gather_parameters
from mtl_jax.training.optimizer import learning_rate
from mtl_jax.weighting.aggregation import select
from mtl_jax.weighting.gradients import Mode, split_heads

Metrics = dict[str, Shaped[Array, "..."]]


class TrainState(NamedTuple):
    """All that a run has learned.

    Attributes:
        step: Steps done.
        params: `{"model": the network's parameters, "weighting": the scheme's, if it learns any}`.
        batch_stats: Running statistics of batch norm.
        optimizer: The optimizer's state.
        weighting: The weighting scheme's carried state.
        average: Moving average of the network's parameters and statistics, `{"params": ..., "batch_stats": ...}`.
        guard: Steps that were skipped or clipped, and the loss scale.
        key: The run's random key; the step is folded in, it never changes.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    batch_stats: Any
    optimizer: Any
    weighting: Any
    average: dict[str, Any]
    guard: Guard
    key: Array


class Experiment(NamedTuple):
    """The parts that a step is made of; no arrays.

    Attributes:
        config: The whole configuration.
        network: The Linen network.
        scheme: The loss weighting: of losses, or of gradients.
        optimizer: The optimizer.
        num_classes: Classes of the data set.
    """

    config: Config
    network: MultiTaskNetwork
    scheme: weighting.Scheme
    optimizer: optax.GradientTransformation
    num_classes: int


def init_state(experiment: Experiment, load: Callable[[Any], Any] | None = None) -> TrainState:
    """Returns the state before the first step.

    Args:
        experiment: The parts.
        load: Applied to the network's fresh variables, to put pretrained weights in.
    """
    config = experiment.config
    init_key, run_key = jax.random.split(jax.random.key(config.training.seed))
    variables = initialize(experiment.network, init_key)
    if load is not None:
        variables = load(variables)
    weights: Any = ()
    if isinstance(experiment.scheme, weighting.Scalarization):
        weights, weighting_state = experiment.scheme.init(len(config.tasks))
    else:
        # At the features no scheme remembers anything of their shape, which is that of a batch.
        tree = variables["params"]
        if takes_representation(config.weighting):
            tree = {"representation": jnp.zeros(()), "heads": tree["heads"]}
        weighting_state = experiment.scheme.init(tree)
    params = {"model": variables["params"], "weighting": weights}
    batch_stats = variables.get("batch_stats", {})
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimizer=experiment.optimizer.init(params),
        weighting=weighting_state,
        average={"params": params["model"], "batch_stats": batch_stats},
        guard=guard_lib.init_guard(config.model.dtype),
        key=jax.random.key_data(run_key),
    )
    # Copies: the state is donated to the step, and no buffer may be donated twice.
    return jax.tree.map(jnp.copy, state)


def takes_representation(config: WeightingConfig) -> bool:
    """Whether gradients are combined at the features that the heads share, not at the parameters."""
    at_features = config.gradients == "representation"
    return at_features or (config.gradients == "auto" and config.scheme == "mgda_ub")


def _mode(config: WeightingConfig) -> Mode:
    """Returns how per-task gradients are taken, where they are those of the parameters."""
    if config.gradients in ("vmap", "scan", "unroll"):
        return config.gradients
    # Vmapped, a kernel's gradients are a grouped convolution, for which XLA sends all activations to all devices.
    return "vmap" if devices_in_force() == 1 else "unroll"


def network_inputs(
    config: ModelConfig, images: Array, previous_images: Array, previous_heatmap: Array
) -> Frames:
    """Returns what a network of this configuration looks at, of what there is; None in place of the rest."""
    return (
        images,
        previous_images if config.inputs != "frame" else None,
        previous_heatmap if config.inputs == "pair_heatmap" else None,
    )


def forward(
    experiment: Experiment, params: Any, state: TrainState, batch: Batch
) -> tuple[Float[Array, "tasks"], tuple[Bool[Array, "tasks"], Any]]:
    """Returns the mean loss of each task on a training batch.

    The first frame of a clip sees itself as the previous frame and an empty heat map, as at the start of a video.

    Args:
        experiment: The parts.
        params: The network's parameters.
        state: What else counts: batch statistics, the step's randomness, the loss scale.
        batch: The batch.

    Returns:
        Losses in the order of `config.tasks`; then whether each task has labels in this batch, and the new batch
        statistics.
    """
    features, batch_stats = _features(experiment, params, state, batch)
    losses, labelled = _mean_losses(experiment, _predict(experiment, params, state, features), batch)
    return losses, (labelled, batch_stats)


def _features(experiment: Experiment, params: Any, state: TrainState, batch: Batch) -> tuple[Features, Any]:
    """Returns the trunk's features, and the new batch statistics; the heads' parameters are not needed."""
    config = experiment.config
    params = _to_use(params, state)
    key = _step_key(state)
    batch = augment(batch)
    height, width = batch.images.shape[2:4]
    heatmaps = _previous_heatmaps(config.model, batch, key, (height // STRIDE, width // STRIDE))

    def part(carry: tuple[Any, Array], images: Array, heatmaps: Array) -> tuple[tuple[Any, Array], Features]:
        batch_stats, key = carry
        previous = jnp.concatenate([images[:, :1], images[:, :-1]], axis=1)
        features, updated = experiment.network.apply(
            {"params": params, "batch_stats": batch_stats},
            *network_inputs(config.model, *map(_as_frames, (images, previous, heatmaps))),
            train=True,
            mutable=["batch_stats"],
            rngs={"sharing": jax.random.fold_in(key, 1)},
            method="trunk",
        )
        carry = updated.get("batch_stats", {}), jax.random.fold_in(key, 2)
        return carry, _as_clips(features, len(images))

    (batch_stats, _), features = in_parts(
        part, config.training.accumulate, (state.batch_stats, key), batch.images, heatmaps
    )
    return jax.tree.map(_as_frames, features), batch_stats


def _predict(experiment: Experiment, params: Any, state: TrainState, features: Features) -> Any:
    """Returns all predictions of each task, clip by clip; of the parameters only the heads' are needed."""
    params = _to_use(params, state)
    clip_length, parts = experiment.config.data.clip_length, experiment.config.training.accumulate

    def part(carry: tuple[()], features: Features) -> tuple[tuple[()], Any]:
        frames = jax.tree.map(_as_frames, features)
        outputs = experiment.network.apply({"params": params}, frames, method="all_predictions")
        return carry, _as_clips(outputs, len(jax.tree.leaves(features)[0]))

    clips = len(jax.tree.leaves(features)[0]) // clip_length
    _, outputs = in_parts(part, parts, (), _as_clips(features, clips))
    return scale_gradient(outputs, state.guard.scale)


def _to_use(params: Any, state: TrainState) -> Any:
    """Returns the parameters as the network takes them; their gradients come back unscaled, and split over devices."""
    scale = state.guard.scale
    return gather_parameters(scale_gradient(params, None if scale is None else 1 / scale))


def _as_frames(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _as_clips(tree: Any, clips: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(clips, -1, *x.shape[1:]), tree)


def _mean_losses(
    experiment: Experiment, outputs: dict[str, tuple[Array, ...]], batch: Batch
) -> tuple[Float[Array, "tasks"], Bool[Array, "tasks"]]:
    """Returns each task's mean loss, and whether there was anything to learn for it."""
    terms = [_mean_loss(experiment, task, outputs[task], batch) for task in experiment.config.tasks]
    losses, labelled = (jnp.stack(column) for column in zip(*terms, strict=True))
    return losses, labelled


def _mean_loss(
    experiment: Experiment, task: Task, outputs: tuple[Array, ...], batch: Batch
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Returns the mean loss of a task's prediction; what was predicted on the way adds its own."""
    # Asked for by each task, computed once: the compiler sees that it is the same.
    targets = batch_targets(batch, experiment.num_classes)
    losses = []
    for output in outputs:
        total, count = TASKS[task].loss(output, batch, targets)
        losses.append(total / jnp.maximum(count, 1))
    return jnp.sum(jnp.stack(losses)), count > 0


def make_step(experiment: Experiment) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the training step, to be jitted with the state donated."""
    config, scheme = experiment.config, experiment.scheme

    def scalarized(scheme: weighting.Scalarization, state: TrainState, batch: Batch) -> tuple:
        def total_loss(params: dict[str, Any]) -> tuple[Array, tuple]:
            losses, (labelled, batch_stats) = forward(experiment, params["model"], state, batch)
            total, (carried, weights) = scheme.apply(
                params["weighting"], state.weighting, losses, mask=labelled
            )
            penalty = experiment.network.penalty(params["model"])
            if penalty is not None:
                total += penalty
            return total, (total, losses, weights, carried, batch_stats)

        grads, aux = jax.grad(total_loss, has_aux=True)(state.params)
        if scheme.predict is not None:
            grads["weighting"] = _held_out_gradient(experiment, scheme, state, batch)
        return grads, *aux

    def aggregated(scheme: optax.GradientTransformationExtraArgs, state: TrainState, batch: Batch) -> tuple:
        model, loss_fn = state.params["model"], _split_loss(experiment, state, batch)
        if takes_representation(config.weighting):
            (losses, (labelled, batch_stats)), grads, backward = weighting.representation_value_and_grad(
                *loss_fn, has_aux=True
            )(*split_heads(model))
            scale = state.guard.scale
            if scale is not None:  # the features' gradients still have it in them
                grads["representation"] = jax.tree.map(
                    lambda g: g.astype(jnp.float32) / scale, grads["representation"]
                )
            combined, carried = scheme.update(grads, state.weighting, losses=losses, mask=labelled)
            if scale is not None:
                combined["representation"] = jax.tree.map(lambda g: g * scale, combined["representation"])
            trunk_grads, head_grads = backward(combined)
            grads = trunk_grads | {"heads": head_grads}
        else:
            (losses, (labelled, batch_stats)), grads, carried = weighting.aggregated_value_and_grad(
                loss_fn,
                scheme,
                every=config.weighting.every,
                mode=_mode(config.weighting),
                has_aux=True,
                constrain=constrain_gradients,
            )(model, state.weighting, mask=lambda aux: aux[0])
        total = jnp.sum(jnp.where(labelled, losses, 0))
        if experiment.network.penalty(model) is not None:
            penalty, penalty_grads = jax.value_and_grad(experiment.network.penalty)(model)
            total, grads = total + penalty, jax.tree.map(jnp.add, grads, penalty_grads)
        return {"model": grads, "weighting": ()}, total, losses, carried.weights, carried, batch_stats

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if isinstance(scheme, weighting.Scalarization):
            grads, total, losses, weights, carried, batch_stats = scalarized(scheme, state, batch)
        else:
            grads, total, losses, weights, carried, batch_stats = aggregated(scheme, state, batch)
        updates, optimizer = experiment.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        if isinstance(scheme, weighting.Scalarization) and scheme.observe is not None:
            # The same batch and the same noise; the batch statistics count it once.
            losses_after, (labelled, _) = forward(experiment, params["model"], state, batch)
            carried = scheme.observe(carried, losses_after, mask=labelled)

        # Early on the average is of few steps, or it would remember the initialisation.
        decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
        latest = {"params": params["model"], "batch_stats": batch_stats}
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, latest)

        norm = optax.tree.norm(grads["model"])
        finite = guard_lib.are_finite({"gradient": grads, "loss": losses, "statistics": batch_stats})
        guard = guard_lib.watch(state.guard, jnp.all(finite), norm, config.optimizer.clip_norm)
        metrics = {
            "loss/total": total,
            "norm/gradient": norm,
            "norm/update": optax.tree.norm(updates["model"]),
            "norm/parameters": optax.tree.norm(params["model"]),
            "dropped": carried.dropped,
            "skipped": guard.skipped,
            "skipped_in_a_row": guard.in_a_row,
            "clipped": guard.clipped,
            "finite": finite,
        }
        if guard.scale is not None:
            metrics["loss_scale"] = guard.scale
        penalty = experiment.network.penalty(state.params["model"])
        if penalty is not None:
            metrics["loss/penalty"] = penalty
        for i, task in enumerate(config.tasks):
            metrics[f"loss/{task}"] = losses[i]
            if weights is not None:
                metrics[f"weight/{task}"] = weights[i]
        skipped = state._replace(step=state.step + 1, guard=guard)
        stepped = TrainState(skipped.step, params, batch_stats, optimizer, carried, average, guard, state.key)
        state = jax.tree.map(lambda new, old: jnp.where(jnp.all(finite), new, old), stepped, skipped)
        return state, metrics

    return step


def make_diagnosis(
    experiment: Experiment, shared: Callable[[str], bool]
) -> Callable[[TrainState, Batch], Metrics]:
    """Returns a function that measures how the tasks pull at the parameters they share.

    Args:
        experiment: The parts.
        shared: Whether several tasks use the parameter of a path.

    Returns:
        A function of state and batch that returns the norm of each task's gradient, unweighted, at the shared
        parameters (`gradient_norm/TASK`) and the cosine for each pair of tasks (`gradient_cosine/TASK-TASK`).
    """
    tasks = experiment.config.tasks

    def diagnose(state: TrainState, batch: Batch) -> Metrics:
        value_and_grad = weighting.per_task_value_and_grad(
            _split_loss(experiment, state, batch), has_aux=True
        )
        (_, (labelled, _)), grads = value_and_grad(state.params["model"])
        gram = weighting.gramian(select(grads, shared))
        gram = jnp.where(labelled[:, None] & labelled, gram, 0)
        norms, cosines = weighting.norms_and_cosines(gram)
        metrics = {f"gradient_norm/{task}": norms[i] for i, task in enumerate(tasks)}
        for i, first in enumerate(tasks):
            for j, second in enumerate(tasks[:i]):
                metrics[f"gradient_cosine/{second}-{first}"] = cosines[i, j]
        return metrics

    return diagnose


def _split_loss(experiment: Experiment, state: TrainState, batch: Batch) -> weighting.SplitLoss:
    """Returns `forward` in two parts, trunk and heads, with `forward`'s aux."""
    model = state.params["model"]

    def trunk_fn(trunk: Any) -> tuple[Features, tuple[Array, Any]]:
        features, batch_stats = _features(experiment, trunk, state, batch)
        _, labelled = _mean_losses(experiment, _predict(experiment, model, state, features), batch)
        return features, (labelled, batch_stats)

    # Each looks at one head's prediction, so that only that head has a backward pass.
    heads_fn = [
        lambda heads, features, task=task: _mean_loss(
            experiment, task, _predict(experiment, {"heads": heads}, state, features)[task], batch
        )[0]
        for task in experiment.config.tasks
    ]
    return weighting.SplitLoss(trunk_fn, heads_fn)


def _held_out_gradient(
    experiment: Experiment, scheme: weighting.Scalarization, state: TrainState, batch: Batch
) -> Any:
    """Returns the hypergradient of the scheme's parameters: what a step on half of the batch does to the other half."""
    half = len(batch.images) // 2
    first = jax.tree.map(lambda x: x[:half], batch)
    second = jax.tree.map(lambda x: x[half:], batch)

    def losses_of(model: Any, batch: Batch) -> Array:
        losses, (labelled, _) = forward(experiment, model, state, batch)
        return jnp.where(labelled, losses, 0)

    gradient = weighting.hypergradient(
        scheme, losses_of, step_size=learning_rate(experiment.config)(state.step)
    )
    return gradient(state.params["weighting"], state.weighting, state.params["model"], first, second)


def _step_key(state: TrainState) -> Array:
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def _previous_heatmaps(
    config: ModelConfig, batch: Batch, key: Array, shape: tuple[int, int]
) -> Float[Array, "batch time height width 1"]:
    batch_size, time = batch.mask.shape[:2]
    if config.inputs != "pair_heatmap" or time == 1:
        return jnp.zeros((batch_size, time, *shape, 1))

    def one_frame(key: Array, boxes: Array, mask: Array) -> Array:
        noise = (config.heatmap_jitter, config.heatmap_lost, config.heatmap_false)
        return render_heatmap(*perturb_objects(key, boxes, mask, *noise), shape)

    keys = jax.random.split(key, (batch_size, time - 1))
    rendered = jax.vmap(jax.vmap(one_frame))(keys, batch.boxes[:, :-1], batch.mask[:, :-1])
    return jnp.concatenate([jnp.zeros_like(rendered[:, :1]), rendered], axis=1)[..., None]
