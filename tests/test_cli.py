"""The command line as a user types it; runs are in `training/test_loop.py`."""

import json
import subprocess
import sys

import pytest

from mtl_jax.cli import main

GT = "1,1,10,10,20,40,1,-1,-1,-1\n2,1,12,10,20,40,1,-1,-1,-1\n1,2,60,10,20,40,1,-1,-1,-1\n2,2,62,10,20,40,1,-1,-1,-1\n"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Returns exit status, standard output and standard error."""
    status = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as exit_:
        status = exit_.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def mot(tmp_path):
    """Ground truth of one sequence, and results that lose the second object in the second frame."""
    (tmp_path / "gt" / "A" / "gt").mkdir(parents=True)
    (tmp_path / "gt" / "A" / "gt" / "gt.txt").write_text(GT)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "A.txt").write_text("".join(line + "\n" for line in GT.splitlines()[:3]))
    return tmp_path


def test_evaluate_result_files_as_json(mot, capsys):
    status, out, _ = run(capsys, "evaluate", "--gt", mot / "gt", "--results", mot / "results", "--json")
    scores = json.loads(out)
    assert status == 0
    assert scores["sequences"].keys() == {"A"}
    assert scores["combined"]["MOTA"] == pytest.approx(75)
    assert scores["combined"]["FN"] == 1
    assert scores["sequences"]["A"]["IDF1"] == pytest.approx(100 * 2 * 3 / (4 + 3))


def test_evaluate_result_files_as_table(mot, capsys):
    status, out, _ = run(capsys, "evaluate", "--gt", mot / "gt", "--results", mot / "results")
    assert status == 0
    assert "HOTA" in out
    assert "75.0" in out


def test_evaluate_names_what_is_missing(mot, capsys):
    (mot / "results" / "A.txt").unlink()
    status, _, err = run(capsys, "evaluate", "--gt", mot / "gt", "--results", mot / "results")
    assert status == 2
    assert "A" in err
    assert len(err.strip().splitlines()) == 1
    status, _, err = run(capsys, "evaluate", "--gt", mot / "gt")
    assert status == 2
    assert "both --gt and --results" in err


def test_wrong_commands(capsys):
    assert run(capsys, "trian")[0] == 2
    status, _, err = run(capsys, "data", "prepair")
    assert (status, "no such command" in err) == (2, True)
    status, _, err = run(capsys, "train", "--workdir", "x")
    assert (status, "no experiment" in err) == (2, True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["--help"], ["quickstart", "data prepare", "evaluate", "track"]),
        (
            ["train", "--help"],
            ["--workdir", "--training.steps", "--data.augment.flip", "Probability of mirroring"],
        ),
        (["evaluate", "--help"], ["--gt", "--results", "--json", "--split"]),
        (["track", "--help"], ["--source", "--output"]),
        (["data", "prepare", "--help"], ["--source", "--data-dir"]),
        (["quickstart", "--help"], ["--workdir"]),
    ],
)
def test_help(capsys, command, words):
    status, out, _ = run(capsys, *command)
    assert status == 0
    for word in words:
        assert word in out


def test_help_does_not_load_jax():
    code = "import sys; from mtl_jax import cli; print('jax' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False"]


def test_reader_who_leaves():
    command = [sys.executable, "-m", "mtl_jax.cli", "evaluate", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_prepare_and_inspect(tmp_path, capsys):
    assert run(capsys, "data", "prepare", "moving_objects/tiny", "--data-dir", tmp_path)[0] == 0
    sheet = tmp_path / "sheet.png"
    assert (
        run(capsys, "data", "inspect", "moving_objects/tiny", "--data-dir", tmp_path, "--output", sheet)[0]
        == 0
    )
    assert sheet.stat().st_size > 10_000
    status, _, err = run(
        capsys, "data", "inspect", "mot_challenge", "--data-dir", tmp_path, "--output", sheet
    )
    assert status == 2
    assert "mtl-jax data prepare mot_challenge" in err


def test_weighting_and_its_hyperparameters_are_options(tmp_path, capsys, monkeypatch):
    import mtl_jax.cli as cli

    experiment = tmp_path / "experiment.py"
    experiment.write_text(
        "from mtl_jax.config import Config, WeightingConfig\n"
        "config = Config(weighting=WeightingConfig(scheme='moco', hyperparameters={'gamma': 0.5}))\n"
    )
    seen = []
    monkeypatch.setattr(cli, "_train_and_report", lambda config, *_, **__: seen.append(config.weighting))
    train = ("train", experiment, "--workdir", tmp_path)
    assert run(capsys, *train)[0] == 0
    assert run(capsys, *train, "--weighting.c", 0.4, "--weighting", "cagrad", "--weighting.rescale=2")[0] == 0
    assert run(capsys, *train, "--weighting=fixed", "--weighting.weights", "box", 1, "motion", 2)[0] == 0
    assert run(capsys, *train, "--weighting.learning-rate", 0.1, "--weighting.weigh-heads", True)[0] == 0
    kept, cagrad, fixed, moco = seen
    assert (kept.scheme, kept.hyperparameters) == ("moco", {"gamma": 0.5})
    assert (cagrad.scheme, cagrad.hyperparameters) == ("cagrad", {"c": 0.4, "rescale": 2})
    assert (fixed.scheme, fixed.weights, fixed.hyperparameters) == ("fixed", {"box": 1, "motion": 2}, {})
    assert (moco.learning_rate, moco.hyperparameters) == (0.1, {"gamma": 0.5, "weigh_heads": True})
    status, _, err = run(capsys, *train, "--weighting")
    assert (status, err) == (2, "mtl-jax: --weighting: no value; give one\n")


def test_tracker_and_its_options_are_options(tmp_path, capsys, monkeypatch):
    import mtl_jax.cli as cli

    experiment = tmp_path / "experiment.py"
    experiment.write_text(
        "from mtl_jax.config import Config, TrackerConfig\n"
        "config = Config(tracker=TrackerConfig(options={'high_score': 0.3}))\n"
    )
    seen = []
    monkeypatch.setattr(cli, "_train_and_report", lambda config, *_, **__: seen.append(config.tracker))
    train = ("train", experiment, "--workdir", tmp_path)
    assert run(capsys, *train, "--tracker.max-lost", 9)[0] == 0
    assert run(capsys, *train, "--tracker", "sort", "--tracker.overlap", "giou")[0] == 0
    kept, sort = seen
    assert (kept.name, kept.options) == ("joint", {"high_score": 0.3, "max_lost": 9})
    assert (sort.name, sort.options) == ("sort", {"overlap": "giou"})


def test_track_detections_of_any_detector(tmp_path, capsys):
    lines = [f"{t},-1,{10 + 2 * t},20,20,40,0.9\n" for t in range(1, 16) if t not in (7, 8)]
    for name, gt in (("A", True), ("B", False)):
        (tmp_path / name / "det").mkdir(parents=True)
        (tmp_path / name / "det" / "det.txt").write_text("".join(lines))
        if gt:
            (tmp_path / name / "gt").mkdir()
            truth = "".join(f"{t},1,{10 + 2 * t},20,20,40,1,-1,-1,-1\n" for t in range(1, 16))
            (tmp_path / name / "gt" / "gt.txt").write_text(truth)
    output = tmp_path / "out"
    track = ("track", "--detections", tmp_path, "--output", output)
    status, out, _ = run(capsys, *track, "--tracker", "bytetrack", "--tracker.max-lost", 5)
    assert status == 0
    assert "HOTA" in out and "µs/frame" in out and "combined" in out
    rows = [line.split(",") for line in (output / "A.txt").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == [t for t in range(1, 16) if t not in (7, 8)]
    assert {row[1] for row in rows} == {"1"}
    assert (output / "B.txt").read_text() == (output / "A.txt").read_text()
    assert run(capsys, *track, "--interpolate", 3)[0] == 0
    assert len((output / "A.txt").read_text().splitlines()) == 15


def test_track_names_what_is_wrong(tmp_path, capsys):
    track = ("track", "--detections", tmp_path, "--output", tmp_path / "out")
    assert "no sequence with det/det.txt" in run(capsys, *track)[2]
    for name in ("x/A", "y/A"):
        (tmp_path / name / "det").mkdir(parents=True)
        (tmp_path / name / "det" / "det.txt").write_text("1,-1,1,1,5,5,0.9\n")
    assert "two sequences are called A" in run(capsys, *track)[2]
    sequence = ("track", "--detections", tmp_path / "x", "--output", tmp_path / "out")
    assert (
        "tracker.name: found 'kalman'; choose from sort" in run(capsys, *sequence, "--tracker", "kalman")[2]
    )
    assert "give the directory of a run and --source" in run(capsys, "track", "--output", tmp_path)[2]
    (tmp_path / "x" / "A" / "det" / "det.txt").write_text("1,-1,1,1,5,5,0.9\n2,-1,1,1,5\n")
    status, _, err = run(capsys, *sequence)
    assert status == 2 and "det.txt:2: 5 columns" in err


def test_help_tells_the_options_of_a_tracker(capsys):
    for command in ("track", "tune tracker"):
        status, out, _ = run(capsys, *command.split(), "--tracker", "ocsort", "--help")
        assert status == 0
        flat = " ".join(out.replace("│", " ").split())
        assert "Trackers: sort, bytetrack, ocsort" in flat
        assert "--tracker.inertia 0.2" in flat and "--tracker.max-lost 30" in flat
        assert "--detections" in flat
