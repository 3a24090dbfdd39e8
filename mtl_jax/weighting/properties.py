"""What each scheme promises; the tests hold it to that."""

from typing import Literal, NamedTuple


class AggregationProperties(NamedTuple):
    """Promises of an aggregation `A(J)` of gradients `J`, one a row, in a first step and exact arithmetic.

    Attributes:
        simplex: The weights are not negative and sum to one.
        non_conflicting: No task loses: `J A(J) >= 0`. For `independent` rows only, where that is set.
        permutation: `A` does not depend on the order of the tasks.
        homogeneous: `A(s J) = s A(J)` for `s > 0`.
        impartial: Scaling one task's gradient does not change the direction of `A(J)`.
        independent: The promises are for linearly independent gradients.
        remembers: The scheme keeps something of each task, and needs `num_tasks`.
        losses: The scheme needs the losses.
        min_tasks: Least number of tasks.
    """

    simplex: bool = False
    non_conflicting: bool = False
    permutation: bool = True
    homogeneous: bool = True
    impartial: bool = False
    independent: bool = False
    remembers: bool = False
    losses: bool = False
    min_tasks: int = 1


class ScalarizationProperties(NamedTuple):
    """Promises of a scalarization, in every step.

    Attributes:
        permutation: The order of the tasks does not matter.
        weights_sum_to: What the effective weights sum to, none of them negative: 1, the number of tasks that count, or
            nothing in particular.
        scale_invariant: Scaling one task's losses does not change how much it counts in the total's gradient.
        logarithms: Losses must not be negative.
        observes: It wants the losses after the step.
        held_out: It learns from a held-out batch.
    """

    permutation: bool = True
    weights_sum_to: Literal["1", "K"] | None = None
    scale_invariant: bool = False
    logarithms: bool = False
    observes: bool = False
    held_out: bool = False


SCALARIZATIONS = {
    "fixed": ScalarizationProperties(permutation=False),
    "equal": ScalarizationProperties(weights_sum_to="K"),
    "rlw": ScalarizationProperties(permutation=False, weights_sum_to="1"),
    "gls": ScalarizationProperties(scale_invariant=True, logarithms=True),
    "scale_invariant": ScalarizationProperties(scale_invariant=True, logarithms=True),
    "cosmos": ScalarizationProperties(permutation=False),
    "pbi": ScalarizationProperties(permutation=False),
    "uncertainty": ScalarizationProperties(permutation=False),
    "revised_uncertainty": ScalarizationProperties(),
    "imtl_l": ScalarizationProperties(),
    "dwa": ScalarizationProperties(weights_sum_to="K"),
    "cov": ScalarizationProperties(weights_sum_to="1", logarithms=True),
    "loss_norm": ScalarizationProperties(scale_invariant=True, logarithms=True),
    "stch": ScalarizationProperties(scale_invariant=True, logarithms=True),
    "dtp": ScalarizationProperties(),
    "famo": ScalarizationProperties(weights_sum_to="1", scale_invariant=True, logarithms=True, observes=True),
    "auto_lambda": ScalarizationProperties(held_out=True),
    "predicted": ScalarizationProperties(weights_sum_to="K", logarithms=True, held_out=True),
}

AGGREGATIONS = {
    "mean": AggregationProperties(simplex=True),
    "sum": AggregationProperties(),
    "random": AggregationProperties(simplex=True, permutation=False),
    "krum": AggregationProperties(simplex=True, min_tasks=4),
    "trimmed_mean": AggregationProperties(),
    "mgda": AggregationProperties(simplex=True, non_conflicting=True),
    "mgda_ub": AggregationProperties(simplex=True, non_conflicting=True),
    "moco": AggregationProperties(homogeneous=False, remembers=True),
    "sdmgrad": AggregationProperties(simplex=True, remembers=True),
    "modo": AggregationProperties(simplex=True, homogeneous=False, remembers=True),
    "pcgrad": AggregationProperties(permutation=False),
    "gradvac": AggregationProperties(permutation=False, remembers=True),
    "graddrop": AggregationProperties(),
    "cagrad": AggregationProperties(),
    "config": AggregationProperties(non_conflicting=True, independent=True, impartial=True),
    "upgrad": AggregationProperties(non_conflicting=True),
    "dualproj": AggregationProperties(non_conflicting=True),
    "aligned_mtl": AggregationProperties(independent=True),
    "gradnorm": AggregationProperties(remembers=True, losses=True),
    "imtl_g": AggregationProperties(independent=True, impartial=True),
    "nash_mtl": AggregationProperties(
        non_conflicting=True, homogeneous=False, independent=True, impartial=True
    ),
    "fairgrad": AggregationProperties(
        non_conflicting=True, homogeneous=False, independent=True, impartial=True
    ),
    "excess_mtl": AggregationProperties(remembers=True, losses=False),
    "db_mtl": AggregationProperties(remembers=True, losses=True, impartial=True),
    "cr_mogm": AggregationProperties(remembers=True),
}
