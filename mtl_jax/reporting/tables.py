"""One list of rows, shown three ways: on the terminal, as Markdown, as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


class Column(NamedTuple):
    """How a value of the rows is shown.

    Attributes:
        key: Key in the rows.
        header: Heading.
        format: Format of numbers, as `format` takes it.
        best: Whether the highest or the lowest value is the best, and shown in bold; None: neither.
    """

    key: str
    header: str
    format: str = ".1f"
    best: Literal["max", "min"] | None = None


_LOWER_IS_BETTER = ("loss/", "motion_error", "IDSW", "FP", "FN", "Frag")
_NO_BEST = ("weight/", "seconds", "steps", "seed")
_FORMATS = {"loss/": ".3f", "weight/": ".3g", "seconds": ".0f", "steps": "d", "seed": "d", "IDSW": "d"}


def default_columns(rows: Sequence[Row]) -> list[Column]:
    """Returns a column for every key of the rows, in order of appearance.

    Scores are percent with one decimal, the highest the best; of losses and errors the lowest; weights and
    times have no best. Make `Column`s yourself for anything else.
    """
    columns = []
    for key in dict.fromkeys(key for row in rows for key in row):
        style = next((value for start, value in _FORMATS.items() if key.startswith(start)), ".1f")
        numbers = [row[key] for row in rows if _is_number(row.get(key))]
        if style == "d" and not all(float(number).is_integer() for number in numbers):
            style = ".1f"
        best = None
        if numbers and not key.startswith(_NO_BEST):
            best = "min" if key.startswith(_LOWER_IS_BETTER) else "max"
        columns.append(Column(key, key.replace("/", " ").replace("_", " "), style, best))
    return columns


def to_markdown(rows: Sequence[Row], columns: Sequence[Column] | None = None) -> str:
    """Returns a Markdown table: the best value of a column is bold, one that is missing or NaN is `–`.

    Example:
        >>> print(to_markdown([{"name": "a", "HOTA": 61.23}, {"name": "b", "HOTA": 58.0}]))
        | name | HOTA |
        | :--- | ---: |
        | a | **61.2** |
        | b | 58.0 |
    """
    columns = default_columns(rows) if columns is None else columns
    cells = [
        [f"**{_escape(text)}**" if bold else _escape(text) for text, bold in line]
        for line in _cells(rows, columns)
    ]
    header = [_escape(column.header) for column in columns]
    rule = ["---:" if _is_numeric(rows, column) else ":---" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *cells])


def print_table(
    rows: Sequence[Row],
    columns: Sequence[Column] | None = None,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Prints the table on the terminal; where it is too wide for that, with rows and columns exchanged.

    Where both are too wide, its lines run on: the terminal wraps them, and a file has them whole.

    Args:
        rows: Rows.
        columns: Columns; None: `default_columns`.
        title: Heading.
        console: Where to print; None: standard output.
    """
    columns = default_columns(rows) if columns is None else columns
    console = Console() if console is None else console
    numeric = [_is_numeric(rows, column) for column in columns]
    header = [Text(column.header, style="bold") for column in columns]
    body = [
        [Text(text, style="bold green" if bold else "") for text, bold in line]
        for line in _cells(rows, columns)
    ]
    table = _grid([header, *body], ["right" if number else "left" for number in numeric], title)
    flipped = _grid(
        [list(line) for line in zip(header, *body, strict=True)], ["left"] + ["right"] * len(rows), title
    )
    unlimited = console.options.update(max_width=10_000)
    width, width_flipped = (console.measure(t, options=unlimited).maximum for t in (table, flipped))
    if width > console.width >= width_flipped:
        table = flipped
    elif width > console.width:
        table.width = width  # or it would leave cells out
    console.print(table, crop=False)


def _grid(lines: Sequence[Sequence[Text]], justify: Sequence[Any], title: str | None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for text, side in zip(lines[0], justify, strict=True):
        table.add_column(text, justify=side)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def write_json(rows: Sequence[Row], path: Path | str) -> Path:
    """Writes the rows as a JSON list of objects, unrounded; NaN and infinity, unknown to JSON, are null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    path.write_text(json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[tuple[str, bool]]]:
    """Returns for every row and column the text and whether it is the best."""
    best = [_best(rows, column) for column in columns]
    return [
        [
            (text := _text(row.get(column.key), column), _is_number(row.get(column.key)) and text == winner)
            for column, winner in zip(columns, best, strict=True)
        ]
        for row in rows
    ]


def _best(rows: Sequence[Row], column: Column) -> str | None:
    """Returns the best value as printed, so that all that look alike are marked; None for none."""
    numbers = [row[column.key] for row in rows if _is_number(row.get(column.key))]
    if column.best is None or len(numbers) < 2:
        return None
    return _text(max(numbers) if column.best == "max" else min(numbers), column)


def _text(value: Any, column: Column) -> str:
    if _is_number(value):
        return format(int(value) if column.format == "d" else value, column.format)
    if value is None or isinstance(value, float):
        return "–"
    return str(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, (str, bool)) or value is None:
        return False
    return math.isfinite(value)


def _is_numeric(rows: Sequence[Row], column: Column) -> bool:
    return any(_is_number(row.get(column.key)) for row in rows)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
