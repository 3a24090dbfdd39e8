"""Assignment of detections to tracks: the best as a whole, or the nearest first."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def assign(
    similarity: Float[Array, "rows columns"], allowed: Bool[Array, "rows columns"]
) -> Int[Array, " rows"]:
    """Pairs rows with columns so that the summed similarity of the pairs is the largest possible.

        maximise   Σ_ij s_ij x_ij   over x_ij ∈ {0, 1},   Σ_j x_ij ≤ 1,   Σ_i x_ij ≤ 1,   x_ij = 0 where not allowed.

    Rows and columns may stay alone. Pairs must be worth making: similarity below zero is never chosen.

    The exact solution, by successive shortest augmenting paths (Jonker & Volgenant), with prices `u_i` of rows and
    `v_j` of columns that keep `u_i + v_j ≥ s_ij`, with equality on pairs, and are zero for who is alone. At first
    every row asks for its best column, `u_i = max_j s_ij`, and gets it where nobody else does: in tracking, where most
    objects are apart from the others, that settles all but a few, in one pass over the matrix. Each of the rest is then
    added by a search that looks at all columns of a row at once.

    Args:
        similarity: Worth of each pair, at least zero.
        allowed: Pairs that may be made.

    Returns:
        For each row its column, or -1.

    References: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38, 1987; Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on
    Aerospace and Electronic Systems 52(4), 2016.
    """
    rows, columns = similarity.shape
    worth = jnp.where(allowed & (similarity > 0), similarity, -jnp.inf)
    highest = jnp.max(worth, axis=1, initial=-jnp.inf)
    # Two plain reductions: argmax is one that CPUs do not vectorise.
    best = jnp.min(
        jnp.where(worth == highest[:, None], jnp.arange(columns), columns), axis=1, initial=columns
    )
    row_price = jnp.maximum(highest, 0)
    asks = row_price > 0
    asked = jnp.where(asks, best, columns)
    row_of = jnp.full(columns, -1).at[asked].max(jnp.arange(rows), mode="drop")
    has = asks & (row_of.at[asked].get(mode="fill", fill_value=-1) == jnp.arange(rows))

    start = _Prices(row_price, jnp.zeros(columns, worth.dtype), row_of, jnp.where(has, best, -1), asks & ~has)
    return lax.while_loop(lambda state: state.waiting.any(), lambda state: _add_row(worth, state), start)[3]


def greedy(
    similarity: Float[Array, "rows columns"], allowed: Bool[Array, "rows columns"]
) -> Int[Array, " rows"]:
    """Pairs columns with rows, column after column: each takes the most similar row that is left.

    Args:
        similarity: Worth of each pair; columns in the order in which they may choose.
        allowed: Pairs that may be made.

    Returns:
        For each row its column, or -1.
    """
    worth = jnp.where(allowed, similarity, -jnp.inf)

    def choose(column: Array, column_of: Array) -> Array:
        left = jnp.where(column_of < 0, worth[:, column], -jnp.inf)
        row = jnp.argmax(left)
        return column_of.at[jnp.where(left[row] > -jnp.inf, row, len(left))].set(column, mode="drop")

    # Nobody chooses after the last column that has an allowed pair.
    last = jnp.max(jnp.where(allowed.any(axis=0), jnp.arange(allowed.shape[1]) + 1, 0), initial=0)
    return lax.fori_loop(0, last, choose, jnp.full(similarity.shape[0], -1))


class _Prices(NamedTuple):
    """Prices of rows and columns, the pairs so far from both sides, and the rows that wait to be added."""

    row_price: Float[Array, " rows"]
    column_price: Float[Array, " columns"]
    row_of: Int[Array, " columns"]
    column_of: Int[Array, " rows"]
    waiting: Bool[Array, " rows"]


class _Search(NamedTuple):
    """A growing tree of alternating paths from one row: Dijkstra over reduced costs `u_i + v_j − s_ij`.

    A path ends in a column that nobody has, or in a row that gives its column up and stays alone, at cost `u_i`.
    """

    row: Int[Array, ""]  # from which it grows
    length: Float[Array, ""]  # of the path to that row
    column: Int[Array, ""]  # reached last
    path: Int[Array, " columns"]  # row from which each column is reached
    done: Bool[Array, " columns"]
    distance: Float[Array, " columns"]
    alone: Int[Array, ""]  # the row that had best stay alone
    alone_length: Float[Array, ""]
    going: Bool[Array, ""]


def _add_row(worth: Array, prices: _Prices) -> _Prices:
    source = jnp.argmax(prices.waiting)
    search = _shortest_path(worth, prices, source)
    ends_alone = search.alone_length <= search.length
    length = jnp.minimum(search.alone_length, search.length)

    # The rows in the tree are the source and those that have the columns that are done.
    rows = len(prices.row_price)
    owner = jnp.where(search.done & (prices.row_of >= 0), prices.row_of, rows)
    slack = jnp.where(search.done, jnp.maximum(length - search.distance, 0), 0)
    row_price = prices.row_price.at[owner].add(-slack, mode="drop").at[source].add(-length)
    column_price = prices.column_price + slack

    # Who stays alone hands its column down the path; else the path starts at the free column.
    given = prices.column_of[search.alone]
    free = jnp.where(ends_alone, jnp.where(search.alone == source, -1, given), search.column)
    column_of = prices.column_of.at[jnp.where(ends_alone, search.alone, rows)].set(-1, mode="drop")

    def hand_down(carry: tuple) -> tuple:
        column, row_of, column_of = carry
        row = search.path[column]
        after = jnp.where(row == source, -1, column_of[row])
        return after, row_of.at[column].set(row), column_of.at[row].set(column)

    _, row_of, column_of = lax.while_loop(
        lambda carry: carry[0] >= 0, hand_down, (free, prices.row_of, column_of)
    )
    return _Prices(row_price, column_price, row_of, column_of, prices.waiting.at[source].set(False))


def _shortest_path(worth: Array, prices: _Prices, source: Array) -> _Search:
    columns = worth.shape[1]

    def grow(search: _Search) -> _Search:
        row, length = search.row, search.length
        through = length + prices.row_price[row] + prices.column_price - worth[row]
        shorter = ~search.done & (through < search.distance)
        path = jnp.where(shorter, row, search.path)
        distance = jnp.where(shorter, through, search.distance)
        by_staying = length + prices.row_price[row]
        stays = by_staying < search.alone_length
        alone_length = jnp.where(stays, by_staying, search.alone_length)

        open_distance = jnp.where(search.done, jnp.inf, distance)
        column = jnp.argmin(open_distance)
        nearest = open_distance[column]
        going = nearest < alone_length
        owner = prices.row_of[column]
        return _Search(
            row=owner,
            length=nearest,
            column=column,
            path=path,
            done=search.done.at[column].set(going | search.done[column]),
            distance=distance,
            alone=jnp.where(stays, row, search.alone),
            alone_length=alone_length,
            going=going & (owner >= 0),
        )

    start = _Search(
        row=source,
        length=jnp.zeros((), worth.dtype),
        column=jnp.array(-1),
        path=jnp.full(columns, -1),
        done=jnp.zeros(columns, bool),
        distance=jnp.full(columns, jnp.inf, worth.dtype),
        alone=source,
        alone_length=jnp.array(jnp.inf, worth.dtype),
        going=jnp.array(True),
    )
    return lax.while_loop(lambda search: search.going, grow, start)
