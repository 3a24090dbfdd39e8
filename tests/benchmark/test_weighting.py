import json

import pytest

from mtl_jax.benchmark import weighting as benchmark
from mtl_jax.cli import main


def test_times_are_of_every_way_and_scheme(capsys):
    main(
        [
            "benchmark",
            "weighting",
            "--tasks",
            "2",
            "--parameters",
            "3000",
            "--schemes",
            "equal",
            "upgrad",
            "krum",
            "--repeats",
            "1",
        ]
    )
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] and found["jax"]
    (case,) = found["cases"]
    assert case["tasks"] == 2
    assert case["shared_parameters"] == pytest.approx(3000, rel=1.0)
    assert set(case["gradients"]) == {"vmap", "scan", "representation"}
    assert set(case["schemes"]) == {"equal", "upgrad"}  # krum is for four tasks
    upgrad = case["schemes"]["upgrad"]
    assert upgrad["vmap"]["ms"] > 0 and upgrad["scan"]["ms"] > 0 and upgrad["solver_ms"] > 0
    # Not to be told by so small a network how much, but K gradients are more than none.
    assert upgrad["vmap"]["memory_mib"] > case["plain_step"]["memory_mib"]


def test_unknown_scheme(capsys):
    with pytest.raises(ValueError, match="no weighting scheme 'nosuch'"):
        benchmark.run(schemes=("nosuch",))
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", "weighting", "--schemes", "nosuch"])
    assert exit_.value.code == 2
    assert "benchmark weighting: no weighting scheme 'nosuch'" in capsys.readouterr().err
