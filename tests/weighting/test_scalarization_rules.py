"""Each scalarization, held to its own paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting

from .conftest import LOSSES, falling, run
from .conftest import make_scalarization as make


def test_fixed_follows_a_schedule():
    scheme = weighting.fixed([1.0, optax.linear_schedule(0.0, 1.0, 4)])
    params, state = scheme.init(2)
    seen = []
    for _ in range(6):
        _, (state, weights) = scheme.apply(params, state, LOSSES[:2])
        seen.append(float(weights[1]))
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_uncertainty_forms_of_the_paper():
    scheme = weighting.uncertainty(["regression", "classification"])
    total, (_, weights) = scheme.apply(
        {"log_variance": jnp.array([1.0, -1.0])}, scheme.init(2)[1], LOSSES[:2]
    )
    regression = 0.5 * np.exp(-1.0) * 3.0 + 0.5 * 1.0
    classification = np.exp(1.0) * 0.2 + 0.5 * -1.0
    np.testing.assert_allclose(total, regression + classification, rtol=1e-6)
    np.testing.assert_allclose(weights, [0.5 * np.exp(-1.0), np.exp(1.0)], rtol=1e-6)


def test_uncertainty_recovers_the_noise_of_two_regressions():
    """The toy problem of Kendall's example code: noise of standard deviation 10 and 1."""
    key_x, key_1, key_2 = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(key_x, (500, 1))
    noise = jnp.concatenate(
        [10 * jax.random.normal(key_1, (500, 1)), jax.random.normal(key_2, (500, 1))], axis=1
    )
    y = jnp.concatenate([2 * x + 8, 3 * x + 3], axis=1) + noise
    scheme = weighting.uncertainty(["regression", "regression"])
    learned, carried = scheme.init(2)
    params = {"model": {"w": jnp.zeros((1, 2)), "b": jnp.zeros(2)}, "weighting": learned}
    optimizer = optax.adam(0.05)

    def total(params):
        residual = x @ params["model"]["w"] + params["model"]["b"] - y
        return scheme.apply(params["weighting"], carried, jnp.mean(residual**2, axis=0))[0]

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(total)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2000)
    residual = x @ params["model"]["w"] + params["model"]["b"] - y
    learned = jnp.exp(params["weighting"]["log_variance"] / 2)
    np.testing.assert_allclose(learned, jnp.std(residual, axis=0), rtol=0.02)
    np.testing.assert_allclose(learned, [10.0, 1.0], rtol=0.1)


def test_dwa_follows_the_relative_fall_of_two_intervals():
    sequence = jnp.array(
        [[4.0, 1.0, 2.0], [2.0, 1.0, 4.0], [2.0, 0.5, 1.0], [1.0, 0.5, 1.0], [9.0, 9.0, 9.0]]
    )
    rows, _ = run(weighting.dwa(temperature=2.0, interval=2), sequence)
    for _, weights in rows[:4]:
        np.testing.assert_allclose(weights, 1)
    ratio = np.array([1.5 / 3, 0.5 / 1, 1.0 / 3])
    np.testing.assert_allclose(rows[4][1], 3 * np.exp(ratio / 2) / np.exp(ratio / 2).sum(), rtol=1e-6)


def test_cov_equals_the_standard_deviation_of_the_loss_ratios():
    sequence = np.asarray(falling(steps=12))
    rows, _ = run(weighting.cov(), jnp.asarray(sequence))
    means = np.array([sequence[:i].mean(axis=0) if i else sequence[0] for i in range(11)])
    ratios = sequence[:11] / means
    variation = np.sqrt(ratios.var(axis=0) + 1e-8) / ratios.mean(axis=0)
    np.testing.assert_allclose(rows[11][1], variation / variation.sum(), rtol=1e-4)


def test_loss_norm_divides_by_the_mean():
    sequence = falling()
    rows, _ = run(weighting.loss_norm(decay=1.0), sequence)
    np.testing.assert_allclose(rows[4][1], 1 / sequence[:5].mean(axis=0), rtol=1e-5)
    rows, _ = run(weighting.loss_norm(decay=0.5), sequence[:3])
    mean = 0.5 * (0.5 * (sequence[0] + sequence[1])) + 0.5 * sequence[2]
    np.testing.assert_allclose(rows[2][1], 1 / mean, rtol=1e-5)


def test_means_of_logarithms():
    params, state = (), weighting.gls().init(3)[1]
    total, (_, weights) = weighting.gls().apply(params, state, LOSSES)
    np.testing.assert_allclose(total, (3.0 * 0.2 * 1.0) ** (1 / 3), rtol=1e-6)
    np.testing.assert_allclose(weights, total / (3 * LOSSES), rtol=1e-6)
    total, (_, weights) = weighting.scale_invariant().apply(params, state, LOSSES)
    np.testing.assert_allclose(total, np.log(3.0 * 0.2), rtol=1e-6)
    np.testing.assert_allclose(weights, 1 / LOSSES, rtol=1e-6)


def test_stch_normalises_by_the_warmup_and_then_leads_by_the_worst():
    sequence = falling(steps=5)
    preference = np.array([1.0, 2.0, 0.5])
    rows, _ = run(weighting.stch(mu=0.5, warmup=4, preference=preference.tolist()), sequence)
    for losses, (total, _) in zip(sequence[:4], rows, strict=False):
        np.testing.assert_allclose(total, np.log(losses).sum(), rtol=1e-5)
    terms = preference * np.log(sequence[4] / sequence[:4].mean(axis=0))
    np.testing.assert_allclose(rows[4][0], 3 * 0.5 * np.log(np.exp(terms / 0.5).sum()), rtol=1e-4)
    sharp, _ = run(weighting.stch(mu=1e-3, warmup=4), sequence)
    worst = np.argmax(sequence[4] / sequence[:4].mean(axis=0))
    shares = sharp[4][1] * sequence[4]
    np.testing.assert_allclose(shares[worst], shares.sum(), rtol=1e-4)


def test_preferred_rays():
    on_ray = jnp.array([1.0, 2.0, 1.0])
    pbi = weighting.pbi([1.0, 2.0, 1.0], penalty=5.0)
    total, _ = pbi.apply((), pbi.init(3)[1], on_ray)
    np.testing.assert_allclose(total, np.sqrt(6), rtol=1e-6)
    unit = np.array([1.0, 2.0, 1.0]) / np.sqrt(6)
    along = unit @ LOSSES
    off = np.linalg.norm(LOSSES - along * unit)
    np.testing.assert_allclose(pbi.apply((), pbi.init(3)[1], LOSSES)[0], along + 5 * off, rtol=1e-6)
    cosmos = weighting.cosmos([1.0, 2.0, 1.0], penalty=2.0)
    cosine = float(on_ray @ LOSSES / (np.sqrt(6) * np.linalg.norm(LOSSES)))
    total, _ = cosmos.apply((), cosmos.init(3)[1], LOSSES)
    np.testing.assert_allclose(total, float(on_ray @ LOSSES) - 2 * cosine, rtol=1e-6)
    drawn, _ = cosmos.apply((), cosmos.init(3)[1], LOSSES, preference=jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(drawn, 3.0 - 2 * 3.0 / np.linalg.norm(LOSSES), rtol=1e-6)
    with pytest.raises(ValueError, match="pbi: preference is"):
        weighting.pbi([1.0, -1.0])


def test_dtp_gives_the_harder_task_more():
    scheme = weighting.dtp(gamma=2.0, decay=0.0)
    progress = jnp.array([0.9, 0.5, 0.1])
    _, (_, weights) = scheme.apply((), scheme.init(3)[1], LOSSES, progress=progress)
    np.testing.assert_allclose(weights, -((1 - progress) ** 2) * jnp.log(progress), rtol=1e-5)


def test_learned_scales_make_losses_alike():
    """At the optimum of what they learn, the effective weights are 1 / (2 L), 1 / L, and as L = exp(s) - 1 / 2 ..."""

    def learned(scheme):
        params, state = scheme.init(3)
        optimizer = optax.adam(0.05)

        def step(carry, _):
            params, opt = carry
            grads = jax.grad(lambda p: scheme.apply(p, state, LOSSES)[0])(params)
            updates, opt = optimizer.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=1500)
        return scheme.apply(params, state, LOSSES)

    np.testing.assert_allclose(learned(weighting.imtl_l())[1][1], 1 / LOSSES, rtol=1e-3)
    kinds = ["regression", "classification", "regression"]
    np.testing.assert_allclose(learned(weighting.uncertainty(kinds))[1][1], 0.5 / LOSSES, rtol=1e-3)
    # L / (2 v) + log(1 + v) is least where 2 v^2 = L (1 + v).
    total, (_, weights) = learned(weighting.revised_uncertainty())
    variance = (LOSSES + np.sqrt(LOSSES**2 + 8 * LOSSES)) / 4
    np.testing.assert_allclose(weights, 0.5 / variance, rtol=1e-3)
    assert total > 0


def test_famo_moves_towards_the_task_that_fell_least():
    scheme = weighting.famo()
    params, state = scheme.init(3)
    for _ in range(50):
        _, (state, weights) = scheme.apply(params, state, LOSSES)
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
        state = scheme.observe(state, LOSSES * jnp.array([0.5, 0.99, 0.8]))
    shares = weights * LOSSES / (weights * LOSSES).sum()
    assert shares[1] > 0.5 > 0.2 > shares[0]


def test_famo_equals_the_published_rule():
    """Adam's first step is the learning rate against the sign of the gradient, which the softmax's derivative gives."""
    scheme = weighting.famo(learning_rate=0.1, gamma=0.0)
    params, state = scheme.init(3)
    after = LOSSES * jnp.array([0.5, 0.99, 0.8])
    _, (state, weights) = scheme.apply(params, state, LOSSES)
    np.testing.assert_allclose(weights, (1 / LOSSES) / jnp.sum(1 / LOSSES), rtol=1e-5)
    state = scheme.observe(state, after)
    fell = np.log(LOSSES / after)
    gradient = (fell - fell.mean()) / 3
    np.testing.assert_allclose(state.scheme.logits, -0.1 * np.sign(gradient), rtol=1e-4)


def quadratic(params, targets):
    """Losses whose first task is helped by the second and hurt by the third."""
    return jnp.stack([jnp.sum((params["x"] - target) ** 2) for target in targets])


TARGETS = jnp.array([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.5]])


@pytest.mark.parametrize("name", ["auto_lambda", "predicted"])
def test_hypergradient_equals_differentiation_through_the_step(name):
    scheme = make(name)
    scheme_params, _ = scheme.init(3)
    _, state = run(scheme, falling())
    keys = iter(jax.random.split(jax.random.key(1), 8))
    scheme_params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape) ** 2, scheme_params
    )
    params, held_out = {"x": jnp.array([0.3, -0.2])}, TARGETS + 0.1

    def through(scheme_params):
        weights = scheme.predict(scheme_params, state)
        grads = jax.grad(lambda p: weights @ quadratic(p, TARGETS))(params)
        ahead = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
        return quadratic(ahead, held_out)[0]

    wanted = jax.grad(through)(scheme_params)
    found = weighting.hypergradient(scheme, quadratic, step_size=0.05, primary=[True, False, False])(
        scheme_params, state, params, TARGETS, held_out
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, wanted)
    assert any(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(wanted))


@pytest.mark.parametrize("name", ["auto_lambda", "predicted"])
def test_a_task_that_helps_gets_more_than_one_that_hurts(name):
    scheme = make(name)
    scheme_params, state = scheme.init(3)
    optimizer = optax.adam(0.01)
    gradient = weighting.hypergradient(scheme, quadratic, step_size=0.05, primary=[True, False, False])

    def step(carry, key):
        scheme_params, state, params, opt = carry
        noise = 0.1 * jax.random.normal(key, (2, *TARGETS.shape))
        batch, held_out = TARGETS + noise
        grads, (state, weights) = jax.grad(
            lambda p: scheme.apply(scheme_params, state, quadratic(p, batch)), has_aux=True
        )(params)
        hyper = gradient(scheme_params, state, params, batch, held_out)
        updates, opt = optimizer.update(hyper, opt)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)
        return (optax.apply_updates(scheme_params, updates), state, params, opt), weights

    carry = (scheme_params, state, {"x": jnp.array([0.0, 1.0])}, optimizer.init(scheme_params))
    _, weights = jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), 300))
    assert (weights >= 0).all()
    assert weights[-50:, 1].mean() > 2 * weights[-50:, 2].mean()


def test_hypergradient_of_a_scheme_that_learns_otherwise():
    with pytest.raises(ValueError, match="does not learn from a held-out batch"):
        weighting.hypergradient(weighting.equal(), quadratic, step_size=0.1)


def test_errors_say_what_was_found():
    with pytest.raises(ValueError, match="not negative, found -1"):
        weighting.fixed([-1.0])
    with pytest.raises(ValueError, match="unknown kind 'ranking'"):
        weighting.uncertainty(["ranking"])
    with pytest.raises(ValueError, match="choose from fixed, equal, rlw"):
        weighting.make("uncertain")
    with pytest.raises(ValueError, match="weighs losses, not gradients; choose from mean"):
        weighting.aggregate("uncertainty", jnp.eye(2))
