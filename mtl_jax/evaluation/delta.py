"""How multi-task runs compare with single-task ones, in one number."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def delta_m(
    scores: ArrayLike,
    baseline: ArrayLike,
    higher_is_better: Sequence[bool],
) -> Float[np.ndarray, "*runs"]:
    """Returns the mean relative loss against single-task training, in percent: lower is better, negative is a gain.

    `100 / S sum_i (-1)^(higher is better) (M_i - B_i) / B_i`, in the sign of the Nash-MTL and FAMO papers; elsewhere it
    is turned round.

    Args:
        scores: `M`, of one run, or of many along leading axes.
        baseline: `B`, of single-task runs with the same backbone; none zero.
        higher_is_better: Of each score.

    Raises:
        ValueError: If a baseline is zero or the lengths differ.

    Example:
        >>> delta_m([97.0, 95.0], baseline=[97.2, 95.9], higher_is_better=[True, True])

    Reference: Maninis, Radosavovic & Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019
    (arXiv:1904.08918), equation 4, with the opposite sign.
    """
    scores, baseline = np.asarray(scores, float), np.asarray(baseline, float)
    if scores.shape[-1:] != baseline.shape or len(higher_is_better) != len(baseline):
        raise ValueError(
            f"delta_m: {scores.shape[-1:]} scores, {baseline.shape} baselines, {len(higher_is_better)} directions; "
            "expected as many of each"
        )
    if (baseline == 0).any():
        raise ValueError("delta_m: a baseline is zero, so there is no relative change")
    signs = np.where(higher_is_better, -1, 1)
    return np.asarray(100 * np.mean(signs * (scores - baseline) / baseline, axis=-1))


def is_comparable(baseline: ArrayLike) -> bool:
    """Whether `delta_m` can compare with these scores: not if one is zero or missing, as after a few steps."""
    scores = np.asarray(baseline, float)
    return bool(np.isfinite(scores).all() and scores.all())
