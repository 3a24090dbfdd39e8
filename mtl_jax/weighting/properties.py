"""What each aggregation promises; the tests hold it to that.

The promises are those for one step from a fresh state, in exact arithmetic.
"""

from typing import NamedTuple


class Properties(NamedTuple):
    """Promises of an aggregation `A(J)` of gradients `J`, one a row.

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


PROPERTIES = {
    "mean": Properties(simplex=True),
    "sum": Properties(),
    "random": Properties(simplex=True, permutation=False),
    "krum": Properties(simplex=True, min_tasks=4),
    "trimmed_mean": Properties(),
    "mgda": Properties(simplex=True, non_conflicting=True),
    "mgda_ub": Properties(simplex=True, non_conflicting=True),
    "moco": Properties(homogeneous=False, remembers=True),
    "sdmgrad": Properties(simplex=True, remembers=True),
    "modo": Properties(simplex=True, homogeneous=False, remembers=True),
    "pcgrad": Properties(permutation=False),
    "gradvac": Properties(permutation=False, remembers=True),
    "graddrop": Properties(),
    "cagrad": Properties(),
    "config": Properties(non_conflicting=True, independent=True, impartial=True),
    "upgrad": Properties(non_conflicting=True),
    "dualproj": Properties(non_conflicting=True),
    "aligned_mtl": Properties(independent=True),
    "gradnorm": Properties(remembers=True, losses=True),
    "imtl_g": Properties(independent=True, impartial=True),
    "nash_mtl": Properties(non_conflicting=True, homogeneous=False, independent=True, impartial=True),
    "fairgrad": Properties(non_conflicting=True, homogeneous=False, independent=True, impartial=True),
    "excess_mtl": Properties(remembers=True, losses=False),
    "db_mtl": Properties(remembers=True, losses=True, impartial=True),
    "cr_mogm": Properties(remembers=True),
}
