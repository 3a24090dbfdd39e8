"""Weights that are learned to lower the loss on a held-out batch: dynamic weight prediction.

The gradient of what is learned is a hypergradient, which `hypergradient` takes inside the jitted step; one such step:

    total, (state, weights) = scheme.apply(scheme_params, state, losses)  # and a step of the model with its gradient
    grads = weighting.hypergradient(scheme, loss_fn, step_size=1e-3)(scheme_params, state, params, batch, held_out)
    updates, optimizer_state = optimizer.update(grads, optimizer_state)  # and one of the weights, with Adam
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_jax.weighting.scalarization import (
    TINY,
    Losses,
    Mask,
    Options,
    Scalarization,
    masked_softmax,
    masked_sum,
    scalarization,
)

PyTree = Any


def hypergradient(
    scheme: Scalarization,
    loss_fn: Callable[[PyTree, Any], Losses],
    *,
    step_size: float | Float[Array, ""],
    primary: Sequence[bool] | Bool[Array, "tasks"] | None = None,
) -> Callable[..., PyTree]:
    """Returns a function that says how the scheme's parameters change the held-out loss after one step.

    With the weights `w(p)` and one step of gradient descent `theta' = theta - a sum_i w_i grad L_i(theta)`, the
    held-out loss `V(theta')` has the derivative `dV/dw_i = -a grad L_i(theta) . grad V(theta')`: exact, without second
    derivatives. All of these inner products come from one transposed backward pass. (Liu et al. take them by finite
    differences.) It costs about three passes forward and backward.

    Args:
        scheme: `auto_lambda` or `predicted`.
        loss_fn: `loss_fn(params, batch) -> losses [K]`. With momentum or Adam the model's true step is another one than
            the step assumed here.
        step_size: `a`, the model's learning rate.
        primary: The tasks that count in the held-out loss; all, if not given.

    Returns:
        `gradient(scheme_params, scheme_state, params, batch, held_out, mask=None, held_out_mask=None)`, which is a tree
        like `scheme_params` for an optimizer. The masks tell which tasks have labels in the batch, and in the held-out
        one; without the second, the first goes for both. A held-out loss that is not finite does not count.

    Raises:
        ValueError: If the scheme does not learn from a held-out batch.

    Reference: Liu, James, Davison & Johns, "Auto-Lambda: Disentangling Dynamic Task Relationships", TMLR 2022
    (arXiv:2202.03091), equations 4 to 6.
    """
    predict = scheme.predict
    if predict is None:
        raise ValueError(
            "hypergradient: the scheme does not learn from a held-out batch; auto_lambda and predicted do"
        )

    def gradient(
        scheme_params: PyTree,
        state: Any,
        params: PyTree,
        batch: Any,
        held_out: Any,
        mask: Mask | None = None,
        held_out_mask: Mask | None = None,
    ) -> PyTree:
        weights, to_scheme = jax.vjp(lambda p: predict(p, state, mask), scheme_params)
        losses, to_model = jax.vjp(lambda p: loss_fn(p, batch), params)
        weights = weights.astype(losses.dtype)
        ahead = jax.tree.map(lambda p, g: p - (step_size * g).astype(p.dtype), params, to_model(weights)[0])

        def held_out_loss(params: PyTree) -> Float[Array, ""]:
            losses = loss_fn(params, held_out)
            counts = jnp.isfinite(losses)
            for tasks in (primary, mask if held_out_mask is None else held_out_mask):
                if tasks is not None:
                    counts &= jnp.asarray(tasks).astype(bool)
            return masked_sum(losses, counts)

        target = jax.grad(held_out_loss)(ahead)
        # The transposed backward pass is the forward derivative, also where only a backward rule is known.
        (along,) = jax.linear_transpose(lambda w: to_model(w)[0], losses)(target)
        return to_scheme((-step_size * along).astype(weights.dtype))[0]

    return gradient


def auto_lambda(initial: float = 0.1, **options: Unpack[Options]) -> Scalarization:
    """Learns one weight a task so that a step with them lowers the loss of a held-out batch.

    A weight that would become negative counts as zero, but can come back; the authors' code has no such bound.

    When to use: some tasks are there to help others, whose names go to `hypergradient(primary=...)`.

    Args:
        initial: Initial weight of every task. 0.1 is the paper's.
        **options: See `Options`.

    Raises:
        ValueError: If `initial` is not positive.

    Reference: Liu, James, Davison & Johns, "Auto-Lambda: Disentangling Dynamic Task Relationships", TMLR 2022
    (arXiv:2202.03091). Its weights are learned by Adam at 1e-4.
    """
    if initial <= 0:
        raise ValueError(f"auto_lambda: initial is {initial}; expected more than 0")

    def predict(params: Any, state: Any, active: Mask) -> Losses:
        weights = params["weights"]
        return weights + jax.lax.stop_gradient(jnp.maximum(weights, 0) - weights)

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        weights = jax.lax.stop_gradient(predict(params, state, active))
        return masked_sum(weights * losses, active), state

    return scalarization(
        "auto_lambda",
        total,
        options,
        init=lambda num_tasks: ({"weights": jnp.full(num_tasks, initial, jnp.float32)}, ()),
        predict=predict,
    )


class Statistics(NamedTuple):
    """What `predicted` knows of each task; logarithms, as losses differ by orders of magnitude.

    Attributes:
        first: Of the first loss.
        fast: Moving average over about 10 steps.
        slow: Over about 100.
        norm: Of the gradient's norm, over about 10 steps; zeros while none is given.
        seen: Whether there was a loss yet.
    """

    first: Losses
    fast: Losses
    slow: Losses
    norm: Losses
    seen: Mask


def predicted(hidden: int = 16, seed: int = 0, **options: Unpack[Options]) -> Scalarization:
    """A small network predicts the weights from how each task does: dynamic weight prediction.

    It sees for each task its level (log-loss), its trend (fast against slow average), its gradient's norm (where given:
    `apply(..., norms=)`) and its difficulty (how much of the first loss is left), each relative to the mean over tasks,
    and the trend and difficulty as they are. The same network serves all tasks, so it does not depend on their order or
    number. Its last layer starts at zero: weights start equal, and always sum to K. It learns by `hypergradient`.

    When to use: as `auto_lambda`, where weights should follow the course of training, or to carry a learned policy over
    to another run. Our own design.

    Args:
        hidden: Width of the one hidden layer.
        seed: Seed of its initial parameters.
        **options: See `Options`.

    Raises:
        ValueError: If `hidden` is less than 1.
    """
    if hidden < 1:
        raise ValueError(f"predicted: hidden is {hidden}; expected at least 1")

    def init(num_tasks: int) -> tuple[Any, Statistics]:
        kernel = jax.random.normal(jax.random.key(seed), (6, hidden)) / jnp.sqrt(6.0)
        params = {
            "hidden": {"kernel": kernel, "bias": jnp.zeros(hidden)},
            "output": {"kernel": jnp.zeros((hidden, 1))},
        }
        zeros = jnp.zeros(num_tasks)
        return params, Statistics(zeros, zeros, zeros, zeros, jnp.zeros(num_tasks, bool))

    def predict(params: Any, state: Statistics, active: Mask) -> Losses:
        trend, difficulty = state.fast - state.slow, state.fast - state.first
        relative = [
            x - masked_sum(x, active) / jnp.maximum(jnp.sum(active), 1)
            for x in (state.fast, trend, state.norm, difficulty)
        ]
        features = jnp.tanh(jnp.stack([*relative, trend, difficulty], axis=-1))
        features = jax.nn.relu(features @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        logits = (features @ params["output"]["kernel"])[:, 0]
        return jnp.sum(active) * masked_softmax(logits, active)

    def total(
        params: Any, state: Statistics, losses: Losses, active: Mask, norms: Losses | None = None
    ) -> tuple:
        def average(old: Losses, new: Losses, rate: float) -> Losses:
            return jnp.where(active, jnp.where(state.seen, old + rate * (new - old), new), old)

        logs = jnp.log(jnp.maximum(jax.lax.stop_gradient(losses), TINY))
        log_norms = jnp.zeros_like(logs) if norms is None else jnp.log(jnp.maximum(norms, TINY))
        state = Statistics(
            first=jnp.where(state.seen | ~active, state.first, logs),
            fast=average(state.fast, logs, 0.1),
            slow=average(state.slow, logs, 0.01),
            norm=average(state.norm, log_norms, 0.1),
            seen=state.seen | active,
        )
        weights = jax.lax.stop_gradient(predict(params, state, active))
        return masked_sum(weights * losses, active), state

    return scalarization("predicted", total, options, init=init, logarithms=True, predict=predict)
