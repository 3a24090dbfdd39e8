import json
import re
from urllib.parse import unquote

import numpy as np
import pytest

from mtl_jax.config import Config, WeightingConfig
from mtl_jax.errors import UserError
from mtl_jax.reporting.report import write_report
from mtl_jax.reporting.video import write_video
from mtl_jax.training.workdir import begin


def _run(folder, scheme):
    folder.mkdir(parents=True)
    rows = [{"step": s, "loss/box": 1 / s, "weight/box": 0.5, "learning_rate": 1e-3} for s in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    begin(folder, Config(name="same", weighting=WeightingConfig(scheme=scheme)), ["square"], steps=())
    (folder / "results").mkdir()
    (folder / "results" / "clip 1.txt").write_text("1,1,1,1,5,5,1,-1,-1,-1\n")
    return folder


@pytest.fixture
def comparison(tmp_path):
    workdir = tmp_path / "my work"
    runs = {"fixed": _run(workdir / "fixed", "fixed"), "learned": _run(workdir / "learned", "uncertainty")}
    frames = [np.full((48, 64, 3), 8 * k, np.uint8) for k in range(20)]
    return {
        "workdir": workdir,
        "title": "A comparison",
        "rows": [{"weighting": "fixed", "HOTA": 60.0}, {"weighting": "learned", "HOTA": 61.0}],
        "runs": runs,
        "videos": {"a clip": write_video(workdir / "videos" / "a clip.mp4", frames, 10)},
        "notes": ["First note.", "Second note."],
        "results": {name: run / "results" for name, run in runs.items()},
        "command": "mtl-jax quickstart",
    }


def _links(report):
    return [unquote(link) for link in re.findall(r"\]\(([^)]+)\)", report.read_text(encoding="utf-8"))]


def test_every_link_is_relative_and_leads_somewhere(comparison):
    report = write_report(**comparison)
    links = _links(report)
    assert all(not link.startswith("/") and (report.parent / link).is_file() for link in links)
    for wanted in ("results.json", "plots/losses.png", "videos/a clip.mp4", "fixed/results/clip 1.txt"):
        assert wanted in links
    assert any(re.fullmatch(r"stills/.*\.png", link) for link in links)


def test_report_says_what_was_compared(comparison):
    text = write_report(**comparison).read_text(encoding="utf-8")
    assert text.startswith("# A comparison\n")
    assert "| learned | **61.0** |" in text
    assert "| `weighting.scheme` | fixed | uncertainty |" in text
    assert "seed" not in text  # the same in both
    for wanted in ("First note.", "Second note.", "mtl-jax quickstart", "- Python: ", "- jax: ", "backend"):
        assert wanted in text
    assert str(comparison["workdir"]) not in text
    assert json.loads((comparison["workdir"] / "results.json").read_text()) == comparison["rows"]


def test_one_run_without_videos_is_a_report_too(comparison):
    runs = {"fixed": comparison["runs"]["fixed"]}
    text = write_report(comparison["workdir"], "One", comparison["rows"][:1], runs).read_text(
        encoding="utf-8"
    )
    assert "video" not in text and "differ" not in text and "plots/losses.png" in text


def test_missing_files_are_named(comparison):
    missing = comparison["workdir"] / "missing.mp4"
    with pytest.raises(UserError, match=r"missing\.mp4"):
        write_report(**(comparison | {"videos": {"clip": missing}}))
    (comparison["runs"]["fixed"] / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        write_report(**comparison)
