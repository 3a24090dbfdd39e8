"""Multiple-gradient descent: the shortest convex combination of the gradients, exactly or followed over many steps.

Along it every task gains, or the point is Pareto stationary. It favours tasks with small gradients.
"""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_jax.weighting import solvers
from mtl_jax.weighting.aggregation import (
    Options,
    Tasks,
    Tensors,
    Weights,
    aggregation,
    per_task_zeros,
    track,
    uniform,
    weighted,
    weighted_sum,
)
from mtl_jax.weighting.gradients import gramian
from mtl_jax.weighting.trees import cast_like

Normalization = Literal["none", "l2", "loss", "loss+"]


def mgda(
    normalization: Normalization = "none", **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The shortest vector in the convex hull of the gradients: `min_w |sum_i w_i g_i|`, `w` on the simplex.

    The exact minimum, found by an active-set method; the public codes stop a Frank-Wolfe iteration early.

    When to use: any Pareto stationary point will do. It favours the task with the smallest gradient; normalise, if
    lengths differ.

    Args:
        normalization: What gradients are divided by before the weights are sought, which then combine the gradients
            as they are: nothing, their norm ("l2"), the loss, or both ("loss+"). With any but "none", tasks may
            conflict with the result.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(mgda(), optax.sgd(0.1))

    Reference: Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes Rendus
    Mathématique 350, 2012; Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018
    (arXiv:1810.04650), whose code has the normalizations.
    """
    return _min_norm("mgda", normalization, options)


def mgda_ub(
    normalization: Normalization = "none", **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """MGDA on the gradients at the shared representation, whose norm bounds that of the parameters' gradients.

    The rule is that of `mgda`; what differs is what it is given. It needs no backward pass of each task through the
    trunk.

    When to use: as `mgda`, where K backward passes through the trunk are too expensive.

    Args:
        normalization: As of `mgda`.
        **options: See `aggregation.Options`.

    Reference: Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018 (arXiv:1810.04650),
    section 3.3.
    """
    return _min_norm("mgda_ub", normalization, options)


def moco(
    beta: float = 0.5,
    beta_sigma: float = 0.5,
    gamma: float = 0.1,
    gamma_sigma: float = 0.5,
    rho: float = 0.0,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """MGDA whose gradients and weights are tracked over the steps, against the bias of noisy gradients.

    In step t, `y_i <- y_i - beta_t (y_i - g_i)` and `w <- P(w - gamma_t (Y Y' + rho I) w)`, where `P` projects onto the
    simplex, `beta_t = beta / t^beta_sigma` and `gamma_t = gamma / t^gamma_sigma`; the result is `sum_i w_i y_i`. The
    projection is the paper's, where LibMTL has a softmax; the defaults are LibMTL's, but not its scaling of each
    gradient to the length of its loss.

    The state holds K gradients. A task that is left out of a step keeps what was tracked of it, and its weight.

    When to use: as `mgda`, with small, noisy batches.

    Args:
        beta: Rate of the tracked gradients.
        beta_sigma: Exponent of its decay.
        gamma: Rate of the weights.
        gamma_sigma: Exponent of its decay.
        rho: Regularisation of the weights.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(moco(num_tasks=3), optax.sgd(0.1))

    Reference: Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach",
    ICLR 2023.
    """

    def init(num_tasks: int, params: Any) -> tuple:
        return (
            jnp.zeros((), jnp.int32),
            per_task_zeros(num_tasks, params),
            _initial_weights(num_tasks, params),
        )

    def combine(tensors: Tensors, state: Any) -> tuple[Any, None, Any]:
        step, tracked, weights = state
        step += 1
        tracked = track(tracked, tensors, beta / step**beta_sigma)
        active = tensors.active
        gram = gramian(tracked) + rho * jnp.eye(len(weights))
        share, now = _among(weights, active)
        now = _project(now - gamma / step**gamma_sigma * (gram @ now), active)
        combined = weighted_sum(tracked, now, active)
        weights = jnp.where(active, share * now, weights)
        return cast_like(combined, tensors.grads), None, (step, tracked, weights)

    return aggregation("moco", combine, options, init=init, remembers=True, takes_params=False)


def sdmgrad(
    lamda: float = 0.3,
    iterations: int = 20,
    learning_rate: float = 5.0,
    momentum: float = 0.5,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """A direction between MGDA's and the mean: `min_w |sum_i w_i g_i + l g|^2`, `w` on the simplex, `g` the mean.

    The weights are followed over the steps by a number of projected gradient steps with momentum, in a Gramian that is
    scaled by the mean norm. The result is `(sum_i w_i g_i + l g) / (1 + l)`. An unbiased estimate needs the Gramian of
    two further batches that are independent of each other, `update(..., samples=(grads_2, grads_3))`; without, that of
    the step's own gradients serves. The defaults are those of the public codes.

    When to use: as `mgda`, but the average loss is to fall too.

    Args:
        lamda: `l`, how much the mean counts.
        iterations: Steps of the weights in each step.
        learning_rate: Of the weights.
        momentum: Of the weights.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(sdmgrad(num_tasks=3), optax.sgd(0.1))

    Reference: Xiao, Ban & Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
    NeurIPS 2023 (arXiv:2305.18409).
    """

    def rule(tensors: Tensors, weights: Weights) -> tuple[Weights, Weights]:
        gram = tensors.gramian if tensors.samples is None else tensors.samples
        equal = uniform(tensors)
        scale = equal @ jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
        # The diagonal of a cross Gramian may be negative all along.
        gram = gram / jnp.where(scale > 0, scale, 1) / jnp.where(scale > 0, scale, 1)

        def step(carry: tuple, _: None) -> tuple:
            weights, velocity = carry
            velocity = momentum * velocity + gram @ (weights + lamda * equal)
            return (_project(weights - learning_rate * velocity, tensors.active), velocity), None

        share, now = _among(weights.astype(gram.dtype), tensors.active)
        (now, _), _ = jax.lax.scan(step, (now, jnp.zeros_like(now)), length=iterations)
        return (now + lamda * equal) / (1 + lamda), jnp.where(tensors.active, share * now, weights)

    return weighted("sdmgrad", rule, options, init=_initial_weights, remembers=True)


def modo(
    gamma: float = 0.001, rho: float = 0.1, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """MGDA whose weights follow its objective slowly: `w <- P(w - gamma (J_2 J_3' + rho I) w)`, one step each time.

    `J_2` and `J_3` are the gradients of two further batches that are independent of each other,
    `update(..., samples=(grads_2, grads_3))`, which makes the step unbiased; without, the step's own gradients serve.
    `P` projects onto the simplex. The defaults are those of LibMTL.

    When to use: as `moco`, with two more batches in each step instead of memory for K gradients.

    Args:
        gamma: Rate of the weights.
        rho: Regularisation of the weights.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(modo(num_tasks=3), optax.sgd(0.1))

    Reference: Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
    Conflict-Avoidance", NeurIPS 2023 (arXiv:2305.20057).
    """

    def rule(tensors: Tensors, weights: Weights) -> tuple[Weights, Weights]:
        gram = tensors.gramian if tensors.samples is None else tensors.samples
        share, now = _among(weights, tensors.active)
        now = _project(now - gamma * (gram @ now + rho * now), tensors.active)
        return now, jnp.where(tensors.active, share * now, weights)

    return weighted("modo", rule, options, init=_initial_weights, remembers=True)


def _initial_weights(num_tasks: int, params: Any) -> Weights:
    return jnp.full(num_tasks, 1 / num_tasks)


def _among(weights: Weights, active: Tasks) -> tuple[Array, Weights]:
    """Returns the active tasks' share of the weights, and their weights as if there were no others."""
    kept = jnp.where(active, weights, 0)
    share = jnp.sum(kept)
    equal = active / jnp.maximum(jnp.sum(active), 1)
    return share, jnp.where(share > 0, kept / jnp.where(share > 0, share, 1), equal)


def _project(weights: Weights, active: Tasks) -> Weights:
    """Projects the active tasks' weights onto the simplex; the others' are zero."""
    # Far below the others an entry projects to zero.
    low = jnp.min(weights) - 2 - (jnp.max(weights) - jnp.min(weights))
    return jnp.where(active, optax.projections.projection_simplex(jnp.where(active, weights, low)), 0)


def _min_norm(
    name: str, normalization: Normalization, options: Options
) -> optax.GradientTransformationExtraArgs:
    if normalization not in ("none", "l2", "loss", "loss+"):
        raise ValueError(
            f"{name}: normalization is {normalization!r}; expected 'none', 'l2', 'loss' or 'loss+'"
        )
    needs = "losses" if normalization.startswith("loss") else None

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        gram = tensors.gramian
        norms = jnp.sqrt(jnp.diagonal(gram))
        size = {"none": jnp.ones_like(norms), "l2": norms, "loss": tensors.losses}.get(normalization)
        size = norms * tensors.losses if size is None else size
        inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 1)
        return solvers.min_norm_point(gram * inverse[:, None] * inverse, tensors.active), state

    return weighted(name, rule, options, needs=needs)
