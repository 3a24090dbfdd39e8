"""The quickstart as a new user runs it."""

import json
import subprocess
import sys

import pytest

PLOTS = ("losses", "weights", "gradient_norms", "norms")


@pytest.mark.slow
def test_quickstart_learns_and_leaves_everything(tmp_path):
    run = tmp_path / "quickstart"
    subprocess.run([sys.executable, "-m", "mtl_jax.cli", "quickstart", "--workdir", str(run)], check=True)
    rows = json.loads((run / "results.json").read_text())
    assert [row["weighting"] for row in rows] == ["fixed", "uncertainty"]
    assert {"AP", "AP50", "HOTA", "MOTA", "IDF1", "seconds"} <= set(rows[0])
    best = max(rows, key=lambda row: row["HOTA"])
    assert best["AP50"] >= 80
    assert best["HOTA"] >= 60
    assert "losses.png" in (run / "report.md").read_text()
    assert all((run / "plots" / f"{name}.png").stat().st_size > 10_000 for name in PLOTS)
    for row in rows:
        evaluation = run / row["weighting"] / "evaluation"
        assert (evaluation / "tracks.mp4").stat().st_size > 10_000
        assert len(list((evaluation / "results").glob("*.txt"))) == 6
