"""Scalarizations with one learned parameter a task, which the optimizer learns with the model's own."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from mtl_jax.weighting.scalarization import (
    Losses,
    Mask,
    Options,
    Scalarization,
    masked_sum,
    scalarization,
)


def uncertainty(kinds: Sequence[str], initial: float = 0.0, **options: Unpack[Options]) -> Scalarization:
    """Weighs each task by its learned homoscedastic uncertainty.

    With the learned `s_i = log(sigma_i^2)`: a regression task (Gaussian likelihood) gives `exp(-s) L / 2 + s / 2`, a
    classification task (softmax likelihood) `exp(-s) L + s / 2`. At the optimum in `s` the effective weight is
    `1 / (2 L)` for both, so losses of any scale come to count alike; the total may be negative.

    When to use: losses are likelihoods of unlike scale. A task whose loss comes near zero gets ever more weight.

    Args:
        kinds: The form of each task's likelihood: `regression` or `classification`.
        initial: Initial `s`. 0 (unit variance) as in TorchJD; LibMTL starts at -0.5.
        **options: See `Options`.

    Raises:
        ValueError: If `init` is called for another number of tasks, or a kind is unknown.

    Reference: Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", CVPR 2018 (arXiv:1705.07115), equations 7 and 10.
    """
    factors = {"regression": 0.5, "classification": 1.0}
    if isinstance(kinds, str):
        raise ValueError(f"uncertainty: kinds is {kinds!r}; expected one for each task")
    if unknown := set(kinds) - set(factors):
        raise ValueError(
            f"uncertainty: unknown kind {sorted(unknown)[0]!r}; choose from {', '.join(factors)}"
        )

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        s = params["log_variance"]
        factor = jnp.array([factors[kind] for kind in kinds])
        return masked_sum(factor * jnp.exp(-s) * losses + s / 2, active), state

    return scalarization(
        "uncertainty",
        total,
        options,
        init=lambda num_tasks: ({"log_variance": jnp.full(num_tasks, initial, jnp.float32)}, ()),
        num_tasks=len(kinds),
    )


def revised_uncertainty(initial: float = 0.0, **options: Unpack[Options]) -> Scalarization:
    """Learned uncertainty with a penalty that is never negative: `L / (2 sigma^2) + log(1 + sigma^2)`.

    Learned is `s = log(sigma^2)`, so that the variance stays positive; the paper learns `sigma`.

    When to use: as `uncertainty`, where a total below zero would mislead.

    Args:
        initial: Initial `s`; 0 is unit variance.
        **options: See `Options`.

    Reference: Liebel & Körner, "Auxiliary Tasks in Multi-task Learning", 2018 (arXiv:1805.06334), equation 3.
    """

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        s = params["log_variance"]
        return masked_sum(jnp.exp(-s) * losses / 2 + jax.nn.softplus(s), active), state

    return scalarization(
        "revised_uncertainty",
        total,
        options,
        init=lambda num_tasks: ({"log_variance": jnp.full(num_tasks, initial, jnp.float32)}, ()),
    )


def imtl_l(initial: float = 0.0, **options: Unpack[Options]) -> Scalarization:
    """Learns a scale for each loss that makes them all one: `exp(s) L - s`.

    At the optimum `exp(s) L = 1`. With `s -> -s` this is twice the regression form of `uncertainty`.

    When to use: as `uncertainty`, for losses that are no likelihoods; or before `imtl_g`, as its paper does.

    Args:
        initial: Initial `s`; 0 is weight one.
        **options: See `Options`.

    Reference: Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.2.
    """

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        s = params["log_scale"]
        return masked_sum(jnp.exp(s) * losses - s, active), state

    return scalarization(
        "imtl_l",
        total,
        options,
        init=lambda num_tasks: ({"log_scale": jnp.full(num_tasks, initial, jnp.float32)}, ()),
    )
