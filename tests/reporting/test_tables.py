import io
import json

import numpy as np
from rich.console import Console

from mtl_jax.reporting.tables import Column, default_columns, print_table, to_markdown, write_json

ROWS = [
    {"name": "fixed", "HOTA": 61.234, "loss/box": 0.51, "weight/box": 0.5, "IDSW": 12, "seconds": 99.6},
    {
        "name": "a|b",
        "HOTA": 63.0,
        "loss/box": 0.49,
        "weight/box": 1.25,
        "IDSW": np.int64(7),
        "seconds": 120.2,
    },
    {"name": "failed", "HOTA": float("nan"), "loss/box": None, "IDSW": None, "seconds": np.float32(3)},
]


def _parse(markdown):
    lines = [line.replace("\\|", "\0").strip("|").split("|") for line in markdown.splitlines()]
    return [[cell.strip().replace("\0", "|") for cell in line] for line in lines]


def test_markdown_has_every_value_and_the_best_in_bold():
    header, rule, *body = _parse(to_markdown(ROWS))
    assert header == ["name", "HOTA", "loss box", "weight box", "IDSW", "seconds"]
    assert rule == [":---"] + ["---:"] * 5
    assert body == [
        ["fixed", "61.2", "0.510", "0.5", "12", "100"],
        ["a|b", "**63.0**", "**0.490**", "1.25", "**7**", "120"],
        ["failed", "–", "–", "–", "–", "3"],
    ]


def test_columns_are_configurable():
    columns = [Column("HOTA", "HOTA ↓", ".2f", best="min"), Column("name", "Name"), Column("none", "None")]
    header, _, *body = _parse(to_markdown(ROWS, columns))
    assert header == ["HOTA ↓", "Name", "None"]
    assert body == [["**61.23**", "fixed", "–"], ["63.00", "a|b", "–"], ["–", "failed", "–"]]


def test_values_that_look_alike_are_both_the_best_and_one_alone_is_not():
    same = [{"AP": 50.01}, {"AP": 50.02}]
    assert to_markdown(same).count("**50.0**") == 2
    assert "**" not in to_markdown(same[:1])


def test_default_columns_know_the_direction():
    best = {column.key: column.best for column in default_columns(ROWS)}
    assert best == {
        "name": None,
        "HOTA": "max",
        "loss/box": "min",
        "weight/box": None,
        "IDSW": "min",
        "seconds": None,
    }


def test_json_round_trip(tmp_path):
    path = write_json(ROWS, tmp_path / "new" / "results.json")
    read = json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
    assert read[0] == ROWS[0]
    assert read[1] == {**ROWS[1], "IDSW": 7}
    assert read[2] == {"name": "failed", "HOTA": None, "loss/box": None, "IDSW": None, "seconds": 3.0}


def _print(width):
    console = Console(file=io.StringIO(), width=width)
    print_table(ROWS, title="Comparison", console=console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    return [line for line in lines if line]


def test_wide_terminal_shows_a_row_a_line():
    lines = _print(120)
    assert lines[0] == ["Comparison"]
    assert ["a|b", "63.0", "0.490", "1.25", "7", "120"] in lines


def test_terminal_too_narrow_for_either_still_gets_everything():
    lines = _print(20)
    assert ["a|b", "63.0", "0.490", "1.25", "7", "120"] in lines


def test_narrow_terminal_shows_a_column_a_line():
    lines = _print(50)
    assert ["name", "fixed", "a|b", "failed"] in lines
    assert ["HOTA", "61.2", "63.0", "–"] in lines
    assert not any("…" in cell for line in lines for cell in line)
