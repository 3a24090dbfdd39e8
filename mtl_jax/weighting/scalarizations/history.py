"""Scalarizations that look at how the losses went so far."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from mtl_jax.weighting.scalarization import (
    TINY,
    Losses,
    Mask,
    Options,
    Scalarization,
    masked_softmax,
    masked_sum,
    preference_vector,
    scalarization,
)


class Mean(NamedTuple):
    """Running mean of each task's losses.

    Attributes:
        value: The mean; zero before the first.
        seen: How many losses.
    """

    value: Losses
    seen: Int[Array, "tasks"]


def _no_mean(num_tasks: int) -> Mean:
    return Mean(jnp.zeros(num_tasks), jnp.zeros(num_tasks, jnp.int32))


def _add(mean: Mean, losses: Losses, active: Mask, decay: float = 1.0) -> Mean:
    """Returns the mean with one loss more: over all, or over about the last `1 / (1 - decay)`."""
    seen = mean.seen + active
    rate = jnp.maximum(1 / jnp.maximum(seen, 1), 1 - decay)
    value = mean.value + rate * (jax.lax.stop_gradient(losses) - mean.value)
    return Mean(jnp.where(active, value, mean.value), seen)


class DWAState(NamedTuple):
    """State of `dwa`.

    Attributes:
        current: Mean over the running interval.
        last: Mean over the interval before; zero before there is one.
        second_last: Mean over the one before that.
        step: Steps done.
    """

    current: Mean
    last: Losses
    second_last: Losses
    step: Int[Array, ""]


def dwa(temperature: float = 2.0, interval: int = 1, **options: Unpack[Options]) -> Scalarization:
    """Dynamic weight average: a task whose loss falls more slowly counts for more.

    `w = K softmax(r / T)`, where `r_i` is task i's mean loss over the last interval, divided by that of the interval
    before; equal weights until there are two.

    When to use: losses fall at unlike rates; costs nothing. Batches are noisy: make an interval long.

    Args:
        temperature: T; larger is closer to equal. 2 is the paper's.
        interval: Steps of an interval. The paper averages over an epoch, which a step does not know: give its length.
        **options: See `Options`.

    Raises:
        ValueError: If a hyperparameter is not positive.

    Reference: Liu, Johns & Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019 (arXiv:1803.10704),
    equation 7.
    """
    if temperature <= 0 or interval < 1:
        raise ValueError(
            f"dwa: temperature is {temperature}, interval is {interval}; expected more than 0, at least 1"
        )

    def init(num_tasks: int) -> tuple[tuple[()], DWAState]:
        nothing = jnp.zeros(num_tasks)
        return (), DWAState(_no_mean(num_tasks), nothing, nothing, jnp.zeros((), jnp.int32))

    def total(params: Any, state: DWAState, losses: Losses, active: Mask) -> tuple:
        known = state.second_last > 0
        ratio = jnp.where(known, state.last / jnp.where(known, state.second_last, 1), 1)
        count = jnp.sum(active)
        weights = count * masked_softmax(ratio / temperature, active)

        current = _add(state.current, losses, active)
        ends = (state.step + 1) % interval == 0
        complete = ends & (current.seen > 0)
        state = DWAState(
            current=jax.tree.map(lambda x: jnp.where(ends, 0, x), current),
            last=jnp.where(complete, current.value, state.last),
            second_last=jnp.where(complete, state.last, state.second_last),
            step=state.step + 1,
        )
        return masked_sum(weights * losses, active), state

    return scalarization("dwa", total, options, init=init)


class CoVState(NamedTuple):
    """State of `cov`.

    Attributes:
        loss: Mean loss.
        ratio: Mean of the loss ratios.
        squares: Sum of squared differences of the loss ratios from their mean.
    """

    loss: Mean
    ratio: Mean
    squares: Losses


def cov(decay: float = 1.0, **options: Unpack[Options]) -> Scalarization:
    """Weighs each task by the coefficient of variation of its loss ratio, `sigma_i / mu_i`, normalised to sum to one.

    The loss ratio is the loss divided by the mean of those before, so neither scale nor how far a task has come counts:
    a task counts while its loss still varies. Equal weights in the first two steps.

    When to use: many losses of unlike scale, and nothing to tune. Noise counts as variation.

    Args:
        decay: 1: means over all steps, the paper's choice. Less: moving averages over about the last `1 / (1 - decay)`
            steps; the squared differences are summed over all steps even then, as in the authors' code.
        **options: See `Options`.

    Raises:
        ValueError: If `decay` is not in (0, 1].

    Reference: Groenendijk, Karaoglu, Gevers & Mensink, "Multi-Loss Weighting with Coefficient of Variations", WACV 2021
    (arXiv:2009.01717), section 3.2.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"cov: decay is {decay}; expected more than 0, at most 1")

    def init(num_tasks: int) -> tuple[tuple[()], CoVState]:
        return (), CoVState(_no_mean(num_tasks), _no_mean(num_tasks), jnp.zeros(num_tasks))

    def total(params: Any, state: CoVState, losses: Losses, active: Mask) -> tuple:
        steps = jnp.maximum(state.ratio.seen, 1)
        # The constant is the authors', so that a task whose loss stands still keeps a little weight.
        deviation = jnp.sqrt(state.squares / steps + 1e-8)
        variation = deviation / jnp.maximum(state.ratio.value, TINY)
        # A mean over the tasks that have one stands in for those that have too few losses yet.
        known = active & (state.ratio.seen > 1)
        typical = jnp.where(known.any(), masked_sum(variation, known) / jnp.maximum(jnp.sum(known), 1), 1)
        variation = jnp.where(known, variation, typical)
        weights = jnp.where(active, variation, 0) / jnp.maximum(masked_sum(variation, active), TINY)

        now = jax.lax.stop_gradient(losses)
        first = state.loss.seen == 0
        ratio = jnp.where(first, 1, now / jnp.maximum(state.loss.value, TINY))
        # A loss that was zero so far has no ratio; nor may its square overflow.
        ratio = jnp.where(ratio < 1e6, ratio, 1)
        mean = _add(state.ratio, ratio, active, decay)
        step = (ratio - state.ratio.value) * (ratio - mean.value)
        state = CoVState(
            loss=_add(state.loss, now, active, decay),
            ratio=mean,
            squares=state.squares + jnp.where(active, step, 0),
        )
        return masked_sum(weights * losses, active), state

    return scalarization("cov", total, options, init=init, logarithms=True)


def loss_norm(decay: float = 0.99, **options: Unpack[Options]) -> Scalarization:
    """Divides each loss by its running mean, the present one included.

    When to use: losses of unlike scale, and nothing to learn. All tasks count alike, however far each has come.

    Args:
        decay: Decay of the mean, over about the last `1 / (1 - decay)` steps; 1: over all. The paper gives none.
        **options: See `Options`.

    Raises:
        ValueError: If `decay` is not in (0, 1].

    Reference: as a baseline ("Loss.Norm") in Wang, Zheng, Liu, Li & Wang, "Towards Real-Time Multi-Object Tracking",
    ECCV 2020 (arXiv:1909.12605), table 2.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"loss_norm: decay is {decay}; expected more than 0, at most 1")

    def total(params: Any, state: Mean, losses: Losses, active: Mask) -> tuple:
        state = _add(state, losses, active, decay)
        # A loss that was zero so far is divided by nothing.
        return masked_sum(losses / jnp.where(state.value > TINY, state.value, 1), active), state

    return scalarization(
        "loss_norm", total, options, init=lambda num_tasks: ((), _no_mean(num_tasks)), logarithms=True
    )


def stch(
    mu: float = 1.0,
    warmup: int = 100,
    preference: Sequence[float] | None = None,
    **options: Unpack[Options],
) -> Scalarization:
    """Smooth Tchebycheff scalarization: a smooth maximum of the losses, so that the worst task leads.

    `K mu logsumexp_i(p_i log(L_i / z_i) / mu)`, where `z_i` is the mean loss over a warm-up, in which `sum_i log L_i`
    is minimised instead.

    When to use: to reach any point of the Pareto front, also where it is not convex, by the preference.

    Args:
        mu: Smoothness: towards 0 only the worst task counts. 1 is the default of the authors' code for networks.
        warmup: Steps of the warm-up. The authors' code takes 4 epochs, and `z` from the last of them; here `z` is the
            mean over all.
        preference: `p`; ones, if not given.
        **options: See `Options`.

    Raises:
        ValueError: If `mu` is not positive, `warmup` less than 1, or the preference does not fit.

    Reference: Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024
    (arXiv:2402.19078), equation 8; the authors' code for networks, followed here, takes logarithms of normalised losses
    and multiplies by K, which the paper does not.
    """
    if mu <= 0 or warmup < 1:
        raise ValueError(f"stch: mu is {mu}, warmup is {warmup}; expected more than 0, at least 1")
    given = None if preference is None else preference_vector("stch", preference)

    def total(params: Any, state: tuple[Mean, Array], losses: Losses, active: Mask) -> tuple:
        level, step = state
        warming = step < warmup
        after = _add(level, losses, active)
        # A task that the warm-up never saw is measured by its first losses.
        grows = warming | (level.seen == 0)
        level = jax.tree.map(lambda new, old: jnp.where(grows, new, old), after, level)

        logs = jnp.log(jnp.maximum(losses, TINY))
        p = jnp.ones_like(losses) if given is None else given
        terms = p * (logs - jnp.log(jnp.maximum(level.value, TINY))) / mu
        largest = jax.lax.stop_gradient(jnp.max(jnp.where(active, terms, -jnp.inf), initial=-1e30))
        exponentials = jnp.exp(jnp.where(active, terms - largest, 0))
        worst = jnp.log(jnp.maximum(masked_sum(exponentials, active), TINY)) + largest
        smooth = jnp.sum(active) * mu * worst
        return jnp.where(warming, masked_sum(logs, active), smooth), (level, step + 1)

    return scalarization(
        "stch",
        total,
        options,
        init=lambda num_tasks: ((), (_no_mean(num_tasks), jnp.zeros((), jnp.int32))),
        num_tasks=None if given is None else len(given),
        logarithms=True,
    )


def dtp(gamma: float = 1.0, decay: float = 0.9, **options: Unpack[Options]) -> Scalarization:
    """Dynamic task prioritization: the harder task, by its own measure of progress, gets more.

    `w_i = -(1 - k_i)^gamma log k_i`, where `k_i` in (0, 1] is a running mean of task i's progress, such as its
    accuracy: give it in each step, `apply(..., progress=k)`. In steps without, `exp(-L_i)` stands in, which for a
    classification loss is the (geometric) mean probability of the right class.

    When to use: tasks have a comparable measure of how well they do, and hard tasks should come first.

    Args:
        gamma: Focus on hard tasks. The paper tunes it for each task; 1 is our choice.
        decay: Decay of the mean. The paper gives none; our choice.
        **options: See `Options`.

    Raises:
        ValueError: If `gamma` is negative or `decay` not in [0, 1).

    Reference: Guo, Haque, Huang, Yeung & Fei-Fei, "Dynamic Task Prioritization for Multitask Learning", ECCV 2018,
    equations 3 and 4.
    """
    if gamma < 0 or not 0 <= decay < 1:
        raise ValueError(
            f"dtp: gamma is {gamma}, decay is {decay}; expected at least 0, and from 0 to below 1"
        )

    def total(
        params: Any, state: Mean, losses: Losses, active: Mask, progress: Losses | None = None
    ) -> tuple:
        measured = jnp.exp(-losses) if progress is None else progress
        state = _add(state, measured, active, decay)
        k = jnp.clip(state.value, 1e-6, 1)
        weights = jax.lax.stop_gradient(-((1 - k) ** gamma) * jnp.log(k))
        return masked_sum(weights * losses, active), state

    return scalarization("dtp", total, options, init=lambda num_tasks: ((), _no_mean(num_tasks)))


class FAMOState(NamedTuple):
    """State of `famo`.

    Attributes:
        logits: Of the tasks' shares.
        optimizer: State of the logits' optimizer.
        losses: Losses before the step.
        active: Whether each counted in it.
    """

    logits: Losses
    optimizer: Any
    losses: Losses
    active: Mask


def famo(
    learning_rate: float = 0.025,
    gamma: float = 1e-3,
    min_losses: Sequence[float] | None = None,
    **options: Unpack[Options],
) -> Scalarization:
    """Fast adaptive multitask optimization: all losses are to fall at the same relative rate, without their gradients.

    Minimises `sum_i z_i log(L_i - l_i) / c` with shares `z = softmax(logits)`, and `c` such that the weights sum to
    one. After the step, the logits move towards the tasks whose loss fell least, as the losses of the same batch after
    the step tell: call `state = scheme.observe(state, losses_after)`, with one more forward pass.

    When to use: the balance of MGDA-like schemes at the cost of a forward pass.

    Args:
        learning_rate: Of the logits, by Adam. 0.025 is the paper's.
        gamma: Decay of the logits, added to their gradient. 1e-3 is the paper's; its code has 0.01.
        min_losses: `l`, the least losses that could be; zeros, if not given.
        **options: See `Options`.

    Raises:
        ValueError: If `init` is called for another number of tasks than `min_losses` has.

    Reference: Liu, Feng, Stone & Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023 (arXiv:2306.03792),
    algorithm 1.
    """
    optimizer = optax.chain(optax.add_decayed_weights(gamma), optax.adam(learning_rate))

    def log_distance(losses: Losses) -> Losses:
        least = 0 if min_losses is None else jnp.asarray(min_losses, jnp.float32)
        return jnp.log(jnp.maximum(losses - least, TINY))

    def init(num_tasks: int) -> tuple[tuple[()], FAMOState]:
        logits = jnp.zeros(num_tasks)
        nothing = jnp.zeros(num_tasks)
        return (), FAMOState(logits, optimizer.init(logits), nothing, jnp.zeros(num_tasks, bool))

    def total(params: Any, state: FAMOState, losses: Losses, active: Mask) -> tuple:
        logs = log_distance(losses)
        # What cannot fall further takes no part, or no other loss would count.
        active = active & (logs > jnp.log(TINY))
        shares = masked_softmax(state.logits, active)
        scale = jax.lax.stop_gradient(masked_sum(shares * jnp.exp(-logs), active))
        state = state._replace(losses=losses, active=active)
        return masked_sum(shares * logs, active) / jnp.maximum(scale, TINY), state

    def observe(state: FAMOState, losses: Losses, active: Mask) -> FAMOState:
        both = state.active & active
        fell = jnp.where(both, log_distance(state.losses) - log_distance(losses), 0)
        _, pullback = jax.vjp(lambda logits: masked_softmax(logits, both), state.logits)
        updates, moments = optimizer.update(pullback(fell)[0], state.optimizer, state.logits)
        return state._replace(logits=optax.apply_updates(state.logits, updates), optimizer=moments)

    return scalarization(
        "famo",
        total,
        options,
        init=init,
        num_tasks=None if min_losses is None else len(min_losses),
        logarithms=True,
        observe=observe,
    )
