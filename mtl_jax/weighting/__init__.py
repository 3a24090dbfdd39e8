"""Loss weighting as pure functions, usable in any JAX code: nothing here knows of the rest of this project.

Scalarizations make one loss of the tasks' losses; aggregations make one gradient of the tasks' gradients.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real, Shaped

from mtl_jax.weighting import aggregation, scalarization
from mtl_jax.weighting.aggregation import AggregationState
from mtl_jax.weighting.aggregations.averages import krum, mean, random, sum, trimmed_mean
from mtl_jax.weighting.aggregations.balance import (
    cr_mogm,
    db_mtl,
    excess_mtl,
    fairgrad,
    gradnorm,
    imtl_g,
    nash_mtl,
)
from mtl_jax.weighting.aggregations.conflict import (
    aligned_mtl,
    cagrad,
    config,
    dualproj,
    graddrop,
    gradvac,
    pcgrad,
    upgrad,
)
from mtl_jax.weighting.aggregations.min_norm import mgda, mgda_ub, moco, modo, sdmgrad
from mtl_jax.weighting.gradients import (
    SplitLoss,
    aggregated_value_and_grad,
    gramian,
    is_representation,
    norms_and_cosines,
    per_task_value_and_grad,
    representation_value_and_grad,
)
from mtl_jax.weighting.scalarization import Scalarization, ScalarizationState
from mtl_jax.weighting.scalarizations.history import cov, dtp, dwa, famo, loss_norm, stch
from mtl_jax.weighting.scalarizations.likelihood import imtl_l, revised_uncertainty, uncertainty
from mtl_jax.weighting.scalarizations.predicted import auto_lambda, hypergradient, predicted
from mtl_jax.weighting.scalarizations.present import cosmos, equal, fixed, gls, pbi, rlw, scale_invariant
from mtl_jax.weighting.step import Scheme, StepState, make_step

SCALARIZATIONS: dict[str, Callable[..., Scalarization]] = {
    scheme.__name__: scheme
    for scheme in (
        *(fixed, equal, rlw, gls, scale_invariant, cosmos, pbi),
        *(uncertainty, revised_uncertainty, imtl_l),
        *(dwa, cov, loss_norm, stch, dtp, famo),
        *(auto_lambda, predicted),
    )
}
AGGREGATIONS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    scheme.__name__: scheme
    for scheme in (
        *(mean, sum, random, krum, trimmed_mean),
        *(mgda, mgda_ub, moco, sdmgrad, modo),
        *(pcgrad, gradvac, graddrop, cagrad, config, upgrad, dualproj, aligned_mtl),
        *(gradnorm, imtl_g, nash_mtl, fairgrad, excess_mtl, db_mtl, cr_mogm),
    )
}
_SCHEMES: dict[str, Callable[..., Scheme]] = SCALARIZATIONS | AGGREGATIONS

__all__ = [
    "AGGREGATIONS",
    "SCALARIZATIONS",
    "AggregationState",
    "Scheme",
    "Scalarization",
    "ScalarizationState",
    "SplitLoss",
    "StepState",
    "aggregate",
    "aggregated_value_and_grad",
    "gramian",
    "hypergradient",
    "is_representation",
    "make",
    "make_default",
    "make_step",
    "names",
    "norms_and_cosines",
    "per_task_value_and_grad",
    "representation_value_and_grad",
    *SCALARIZATIONS,
    *AGGREGATIONS,
]


def names() -> tuple[str, ...]:
    """Returns the names of all schemes, scalarizations first."""
    return tuple(_SCHEMES)


def make(name: str, **hyperparameters: Any) -> Any:
    """Returns the scheme of this name.

    Args:
        name: One of `names()`.
        **hyperparameters: As of the function of that name. `inner` of a wrapper may be the name of another scheme.

    Raises:
        ValueError: If there is none, or it has no such hyperparameter.
    """
    if name not in _SCHEMES:
        raise ValueError(f"no weighting scheme {name!r}; choose from {', '.join(_SCHEMES)}")
    known = [p.name for p in inspect.signature(_SCHEMES[name]).parameters.values() if p.kind != p.VAR_KEYWORD]
    known += (aggregation if name in AGGREGATIONS else scalarization).Options.__annotations__
    if unknown := set(hyperparameters) - set(known):
        raise ValueError(
            f"{name}: no hyperparameter {sorted(unknown)[0]!r}; it has {', '.join(known) or 'none'}"
        )
    if isinstance(inner := hyperparameters.get("inner"), str):
        if inner not in AGGREGATIONS:
            raise ValueError(f"{name}: inner is {inner!r}; expected one of {', '.join(AGGREGATIONS)}")
        hyperparameters["inner"] = make(inner, num_tasks=hyperparameters.get("num_tasks"))
    return _SCHEMES[name](**hyperparameters)


def make_default(name: str, num_tasks: int, **hyperparameters: Any) -> Any:
    """Returns the scheme of this name for K tasks that are all alike, as its paper has it.

    What has no default is set so that no task is preferred: weights and preferences are 1, every likelihood is a
    regression's, and a wrapper is around `mgda`.

    Args:
        name: One of `names()`.
        num_tasks: K.
        **hyperparameters: As of `make`.

    Raises:
        ValueError: As of `make`.

    Example:
        >>> schemes = {name: make_default(name, num_tasks=3) for name in names()}
    """
    alike: dict[str, dict[str, Any]] = {
        "fixed": {"weights": [1.0] * num_tasks},
        "uncertainty": {"kinds": ["regression"] * num_tasks},
        "cosmos": {"preference": [1.0] * num_tasks},
        "pbi": {"preference": [1.0] * num_tasks},
        "cr_mogm": {"inner": "mgda"},
    }
    tasks = {"num_tasks": num_tasks} if name in AGGREGATIONS else {}
    return make(name, **tasks | alike.get(name, {}) | hyperparameters)


def aggregate(
    name: str,
    matrix: Real[ArrayLike, "tasks parameters"],
    *,
    losses: Real[ArrayLike, "tasks"] | None = None,
    mask: Shaped[ArrayLike, "tasks"] | None = None,
    **hyperparameters: Any,
) -> Float[Array, "parameters"]:
    """Returns what an aggregation makes of a matrix whose rows are the gradients of the tasks, in its first step.

    Args:
        name: Name of the aggregation.
        matrix: One gradient a row.
        losses: The tasks' losses, where the scheme needs them.
        mask: Which tasks count; all, if not given.
        **hyperparameters: Its hyperparameters.

    Raises:
        ValueError: If there is no such aggregation or hyperparameter, or something does not fit.

    Example:
        >>> aggregate("upgrad", jnp.array([[1.0, 0.0], [-0.5, 1.0]]))
    """
    if name in SCALARIZATIONS:
        raise ValueError(f"{name} weighs losses, not gradients; choose from {', '.join(AGGREGATIONS)}")
    matrix = jnp.asarray(matrix)
    matrix = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    if matrix.ndim != 2:
        raise ValueError(f"{name}: the matrix has shape {matrix.shape}; expected one gradient a row")
    tx = make(name, num_tasks=len(matrix), **hyperparameters)
    extra = {"losses": losses, "mask": mask}
    extra = {key: jnp.asarray(value) for key, value in extra.items() if value is not None}
    return tx.update(matrix, tx.init(matrix[0]), **extra)[0]
