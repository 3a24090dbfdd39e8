"""Loss weighting as pure functions, usable in any JAX code: nothing here knows of the rest of this project."""

from collections.abc import Callable
from typing import Any

from mtl_jax.weighting.gradients import gramian, norms_and_cosines, per_task_value_and_grad
from mtl_jax.weighting.scalarization import Scalarization, equal, fixed, uncertainty

__all__ = [
    "Scalarization",
    "equal",
    "fixed",
    "gramian",
    "make",
    "names",
    "norms_and_cosines",
    "per_task_value_and_grad",
    "uncertainty",
]

_SCHEMES: dict[str, Callable[..., Scalarization]] = {
    "fixed": fixed,
    "equal": equal,
    "uncertainty": uncertainty,
}


def names() -> tuple[str, ...]:
    """Returns the names of all schemes."""
    return tuple(_SCHEMES)


def make(name: str, **hyperparameters: Any) -> Scalarization:
    """Returns the scheme of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in _SCHEMES:
        raise ValueError(f"no weighting scheme {name!r}; choose from {', '.join(_SCHEMES)}")
    return _SCHEMES[name](**hyperparameters)
