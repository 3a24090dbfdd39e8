"""Small convex problems in the weights of K tasks, solved on the device inside `jit`, with a bound on the iterations.

Everything is stated in the Gramian `G` of the task gradients (K×K, positive semidefinite), so the cost does not depend
on the number of parameters. Every solver first scales the tasks to gradients of unit length, `C = D G D` with
`D = diag(G)^(-1/2)`: then nothing depends on the scale of any loss. A ridge of a few roundings of one keeps `C`
regular; it stands in for the limit where tasks contradict each other exactly or are copies of one another. A task whose
gradient is zero gets the weight zero.

All work in the precision of `G`, under `jax.vmap`, and for any K.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Gramian = Float[Array, "tasks tasks"]
Weights = Float[Array, "tasks"]
Scalar = float | Float[Array, ""]
Tasks = Bool[Array, "tasks"]

_FULL_EXCHANGES = 3  # in a row without progress, before single exchanges; as Kim and Park have it


def normalized(gram: Gramian) -> tuple[Gramian, Weights]:
    """Returns the Gramian of the unit gradients and the inverse norms of the gradients.

    Where a gradient is zero its inverse norm is given as zero, and so are its products.
    """
    squares = jnp.diagonal(gram)
    inverse_norms = jnp.where(squares > 0, jax.lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)
    return gram * inverse_norms[:, None] * inverse_norms, inverse_norms


def _regular(gram: Gramian) -> tuple[Gramian, Weights]:
    """Returns `normalized(gram)` with a diagonal of one and a ridge."""
    cosines, inverse_norms = normalized(gram)
    ridge = 4 * len(gram) * jnp.finfo(gram.dtype).eps
    return jnp.fill_diagonal(cosines, 1 + ridge, inplace=False), inverse_norms


def nonnegative_minimum(
    matrix: Gramian, linear: Weights, start: Tasks | None = None
) -> tuple[Weights, Tasks]:
    """Returns `argmin_{x >= 0} x'Qx / 2 - c'x`, and which entries are free (the others are zero).

    Block principal pivoting: solve for the free entries, exchange all entries of wrong sign at once, until there is
    none. That takes a handful of steps whatever K; where it does not make progress, single exchanges do.

    Args:
        matrix: `Q`, positive definite, of unit diagonal but for a ridge.
        linear: `c`.
        start: Which entries are free at first; none, if not given. Near the solution's, it saves steps.

    Reference: Kim & Park, "Fast Nonnegative Matrix Factorization: An Active-Set-Like Method and Comparisons", SIAM
    Journal on Scientific Computing 33(6), 2011.
    """
    size = len(linear)
    # Below this, a sign is rounding.
    tolerance = 2 * size * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(linear))

    def solve(free: Tasks) -> Weights:
        both = free[:, None] & free
        factor = jax.scipy.linalg.cho_factor(jnp.where(both, matrix, jnp.eye(size, dtype=matrix.dtype)))
        x = jax.scipy.linalg.cho_solve(factor, jnp.where(free, linear, 0))
        residual = jnp.where(free, linear - matrix @ x, 0)
        return x + jax.scipy.linalg.cho_solve(factor, residual)

    def wrong_signs(free: Tasks, x: Weights) -> Tasks:
        return jnp.where(free, x < -tolerance, matrix @ x - linear < -tolerance)

    def exchange(carry: tuple) -> tuple:
        free, x, wrong, fewest, patience, count = carry
        number = jnp.sum(wrong)
        better = number < fewest
        last = jnp.arange(size) == size - 1 - jnp.argmax(wrong[::-1])
        free = free ^ jnp.where(better | (patience > 0), wrong, last)
        x = solve(free)
        patience = jnp.where(better, _FULL_EXCHANGES, patience - 1)
        return free, x, wrong_signs(free, x), jnp.minimum(number, fewest), patience, count + 1

    free = jnp.zeros(size, bool) if start is None else start
    x = solve(free)
    carry = (free, x, wrong_signs(free, x), size + 1, _FULL_EXCHANGES, 0)
    free, x, *_ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[2]) & (carry[-1] < 8 * size + 16), exchange, carry
    )
    return jnp.maximum(x, 0), free


def min_norm_point(gram: Gramian, active: Tasks | None = None) -> Weights:
    """Returns the weights, on the simplex, of the shortest convex combination of the gradients.

    A gradient of zero is that combination.

    Args:
        gram: `G`.
        active: Tasks that take part; all, if not given.

    Reference: Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes Rendus
    Mathématique 350, 2012.
    """
    cosines, inverse_norms = _regular(gram)
    # min x'Gx / 2 - 1'x over x >= 0 is a multiple of the point; in x = D y the linear term is D 1. Only its direction
    # counts, and scaled by its largest entry it is of a size that can be squared.
    scale = jnp.where(jnp.any(inverse_norms > 0), jnp.max(inverse_norms), 1)
    relative = inverse_norms / scale
    x = relative * nonnegative_minimum(cosines, relative)[0]
    zero = inverse_norms == 0 if active is None else active & (inverse_norms == 0)
    x = jnp.where(jnp.any(zero), zero.astype(x.dtype), x)
    return x / jnp.maximum(jnp.sum(x), jnp.finfo(x.dtype).tiny)


def dual_cone_projection(gram: Gramian, weights: Weights) -> Weights:
    """Returns weights of the projection of `J'u` onto the directions that conflict with no task.

    The closest vector `d` to `J'u` with `J d >= 0` is `J'(u + v)`, where `v` minimises `v'Gv / 2 + (Gu)'v` over
    `v >= 0`.

    Args:
        gram: `J J'`.
        weights: `u`.

    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017
    (arXiv:1706.08840), equation 11.
    """
    cosines, inverse_norms = _regular(gram)
    lengths = jnp.where(inverse_norms > 0, weights / jnp.where(inverse_norms > 0, inverse_norms, 1), 0)
    scale = jnp.maximum(jnp.max(jnp.abs(lengths)), jnp.finfo(gram.dtype).tiny)
    v, _ = nonnegative_minimum(cosines, -(cosines @ (lengths / scale)))
    return weights + scale * inverse_norms * v


def worst_gain_maximum(gram: Gramian, weights: Weights, radius: Scalar) -> Weights:
    """Returns weights of the direction, in a ball around `g = J'u`, on which the worst task gains most.

    That is `argmax_d min_i g_i'd` with `|d - g| <= c |g|`. By duality `d = J'(u + x)`, where `x >= 0` is a multiple of
    the point `w` of the simplex that minimises `w'Gu + c |g| |J'w|`, and `|J'x| = c |g|`.

    With `x(t) = argmin_{x >= 0} x'Gx / 2 - (t - Gu)'x`, which is such a multiple for the right `t`, the length
    `|J'x(t)|` is a convex and increasing function of `t`, so Newton's method from above finds the `t` at which it is
    `c |g|`. There the length is right, and `t` is the minimum of the dual.

    Args:
        gram: `G = J J'`.
        weights: `u`.
        radius: `c`, relative to the length of `g`.

    Reference: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021 (arXiv:2110.14048),
    equations 2 and 4.
    """
    cosines, inverse_norms = _regular(gram)
    is_zero = inverse_norms == 0
    lengths = jnp.where(is_zero, 0, weights / jnp.where(is_zero, 1, inverse_norms))
    scale = jnp.maximum(jnp.max(jnp.abs(lengths)), jnp.finfo(gram.dtype).tiny)
    lengths = lengths / scale
    shares = inverse_norms / jnp.where(jnp.all(is_zero), 1, jnp.max(inverse_norms))
    projections = cosines @ lengths
    target = radius * jnp.sqrt(jnp.maximum(lengths @ projections, 0))

    def length_and_slope(x: Weights) -> tuple[Array, Array]:
        length = jnp.sqrt(jnp.maximum(x @ cosines @ x, 0))
        return length, shares @ x / jnp.where(length > 0, length, 1)

    def newton(carry: tuple) -> tuple:
        level, x, free, count = carry
        length, slope = length_and_slope(x)
        level -= jnp.where(slope > 0, (length - target) / jnp.where(slope > 0, slope, 1), 0)
        return level, *nonnegative_minimum(cosines, level * shares - projections, free), count + 1

    def unfinished(carry: tuple) -> Array:
        length, _ = length_and_slope(carry[1])
        return (length - target > 4 * jnp.finfo(gram.dtype).eps * target) & (carry[-1] < 40)

    # Single tasks bound the dual from above.
    level = jnp.min(jnp.where(is_zero, jnp.inf, (projections + target) / jnp.where(is_zero, 1, shares)))
    level = jnp.where(jnp.all(is_zero), 0, level)
    carry = (level, *nonnegative_minimum(cosines, level * shares - projections), 0)
    _, x, _, _ = jax.lax.while_loop(unfinished, newton, carry)
    length, _ = length_and_slope(x)
    return weights + scale * inverse_norms * x * jnp.where(
        length > 0, target / jnp.where(length > 0, length, 1), 0
    )


def proportional_fairness(gram: Gramian, exponent: Scalar = 1.0) -> Weights:
    """Returns positive weights `w` with `G w = w^(-1/a)`, entry by entry.

    `J'w` maximises the sum of the tasks' alpha-fair utilities of their gains. For `a = 1` they are logarithms: the Nash
    bargaining solution.

    Newton's method, with a search along the step, on the convex function whose stationary point this is.

    Args:
        gram: `G`.
        exponent: `a`, positive.

    Reference: Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022 (arXiv:2202.01017), claim 3.2; Ban &
    Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024 (arXiv:2402.15638), equation 4.
    """
    cosines, inverse_norms = _regular(gram)
    is_zero = inverse_norms == 0
    power = 1 / exponent
    # In w = D x the equation reads C x = k x^(-1/a), with k_i = |g_i|^(1/a - 1). A common factor of k is taken out
    # before anything is raised to a power.
    log_norms = jnp.where(is_zero, 0, -jnp.log(jnp.where(is_zero, 1, inverse_norms)))
    log_factors = (power - 1) * log_norms
    common = jnp.mean(log_factors)
    factors = jnp.exp(log_factors - common)

    def value(x: Weights) -> Array:
        other = jnp.where(power == 1, 2, power)
        utility = jnp.where(power == 1, jnp.log(x), x ** (1 - other) / (1 - other))
        return x @ cosines @ x / 2 - factors @ utility

    steps = 0.5 ** jnp.arange(10, dtype=gram.dtype)

    def newton(carry: tuple) -> tuple:
        x, _, count = carry
        gradient = cosines @ x - factors * x**-power
        curvature = cosines + jnp.diag(power * factors * x ** (-power - 1))
        step = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(curvature), -gradient)
        decrement = -gradient @ step
        # No weight loses more than nine tenths, so that all stay positive.
        longest = jnp.minimum(1, 0.9 / jnp.max(jnp.maximum(-step / x, 0.9)))
        candidates = x + longest * steps[:, None] * step
        values = jax.vmap(value)(candidates)
        # Close to the solution the values differ by roundings only, and the whole step is right.
        best = jnp.where(decrement < 1e-3, 0, jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf)))
        return candidates[best], decrement, count + 1

    def unfinished(carry: tuple) -> Array:
        return (carry[1] > len(gram) * jnp.finfo(gram.dtype).eps ** 1.5) & (carry[-1] < 60)

    x = factors ** (1 / (1 + power))  # the solution for orthogonal gradients
    x, *_ = jax.lax.while_loop(unfinished, newton, (x, jnp.array(jnp.inf, gram.dtype), 0))
    return inverse_norms * x * jnp.exp(common / (1 + power))


def eigen(gram: Gramian) -> tuple[Weights, Float[Array, "tasks tasks"], Tasks]:
    """Returns eigenvalues, eigenvectors in columns, and which eigenvalues are not zero but for rounding."""
    values, vectors = jnp.linalg.eigh(gram)
    return values, vectors, values > jnp.max(values) * len(gram) * jnp.finfo(gram.dtype).eps


def pseudo_inverse(gram: Gramian) -> Float[Array, "tasks tasks"]:
    """Returns the Moore-Penrose inverse; eigenvalues that are zero but for rounding count as zero."""
    values, vectors, positive = eigen(gram)
    return (vectors * jnp.where(positive, 1 / jnp.where(positive, values, 1), 0)) @ vectors.T
