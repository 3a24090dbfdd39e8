"""The loss weighting that an experiment asks for, made to fit its tasks and its network."""

from typing import Any

from mtl_jax import weighting
from mtl_jax.config import Config
from mtl_jax.errors import UserError
from mtl_jax.models.dependence import shared_paths
from mtl_jax.models.network import MultiTaskNetwork
from mtl_jax.models.sharing.hard import Hard
from mtl_jax.tasks import TASKS
from mtl_jax.training.step import takes_representation


def make_scheme(config: Config, network: MultiTaskNetwork) -> weighting.Scheme:
    """Returns the loss weighting that a configuration describes.

    Args:
        config: The experiment.
        network: Its network, which says what tasks share.

    Raises:
        UserError: If there is no such scheme, or a setting does not fit it, the tasks or the network.
    """
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
                f"{config.model.sharing} does not have; choose vmap, scan or unroll, or model.sharing hard"
            )
        hyperparameters["shared"] = weighting.is_representation if at_features else shared.__contains__
        if isinstance(prefix := hyperparameters.get("params"), str):
            hyperparameters["params"] = lambda path: path.startswith(prefix)
        averages = {"moco", "db_mtl", "excess_mtl"} & {scheme, hyperparameters.get("inner")}
        if at_features and (averages or "params" in hyperparameters):
            raise UserError(
                f"weighting.gradients: found representation, but {(*averages, 'params')[0]} needs the parameters' "
                "gradients; choose vmap, scan or unroll"
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
