import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity

from mtl_jax.errors import UserError
from mtl_jax.evaluation.mot import evaluate_mot


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def objects(frames, track_id, left, width=10, extra=(1, 1, 1)):
    """Rows of one object that stands still."""
    return [(frame, track_id, left, 1, width, 20, *extra) for frame in frames]


RESULT = (0.9, -1, -1, -1)


def test_published_figures(shared_data, tmp_path):
    source = shared_data / "metrics" / "motmetrics_test"
    names = ["TUD-Campus", "TUD-Stadtmitte"]
    for name in names:
        shutil.copy(source / name / "test.txt", tmp_path / f"{name}.txt")
    scores = evaluate_mot(source, tmp_path)
    # The table of the MOTChallenge devkit.
    titles = ["IDF1", "IDP", "IDR", "Recall", "Precision", "FAR", "GT", "MT", "PT", "ML"]
    titles += ["FP", "FN", "IDSW", "Frag", "MOTA", "MOTP", "MOTAL"]
    text = (source / "published_numbers.txt").read_text()
    tables = re.findall(r"^(TUD\S+)\n.*\n([\d.| ]+)$", text, re.MULTILINE)
    assert [name for name, _ in tables] == names
    for name, row in tables:
        for title, published in zip(titles, row.replace("|", " ").split(), strict=True):
            digits = len(published.partition(".")[2])
            assert f"{scores['sequences'][name][title]:.{digits}f}" == published, (name, title)
    # TrackEval's own numbers.
    theirs = {"TP": "CLR_TP", "FP": "CLR_FP", "FN": "CLR_FN", "Recall": "CLR_Re", "Precision": "CLR_Pr"}
    reference = json.loads((source / "trackeval-1.3.0.json").read_text())
    for name, ours in (scores["sequences"] | {"COMBINED_SEQ": scores["combined"]}).items():
        known = {title: theirs.get(title, title) for title in set(ours) - {"GT", "FAR", "MOTAL"}}
        for title, key in known.items():
            value = reference[name][key] if isinstance(ours[title], int) else 100 * reference[name][key]
            assert ours[title] == pytest.approx(value, abs=1e-9), (name, title)


def official(gt_root, results, length, rules):
    """HOTA, MOTA, IDF1, FP of sequence S by TrackEval, reading the files itself."""
    dataset = MotChallenge2DBox(
        {
            "GT_FOLDER": str(gt_root),
            "TRACKERS_FOLDER": str(results.parent),
            "TRACKERS_TO_EVAL": [results.name],
            "TRACKER_SUB_FOLDER": "",
            "SEQ_INFO": {"S": length},
            "SKIP_SPLIT_FOL": True,
            "BENCHMARK": rules,
            "PRINT_CONFIG": False,
        }
    )
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data(results.name, "S"), "pedestrian")
    quiet = {"PRINT_CONFIG": False}
    hota, clear, identity = (m.eval_sequence(data) for m in (HOTA(), CLEAR(quiet), Identity(quiet)))
    return 100 * hota["HOTA"].mean(), 100 * clear["MOTA"], 100 * identity["IDF1"], clear["CLR_FP"]


@pytest.mark.parametrize("rules", ["MOT15", "MOT17", "MOT20"])
def test_equals_trackeval_reading_files(tmp_path, rules):
    random = np.random.default_rng(0)
    truth, found = [], []
    for track_id in range(1, 13):
        label = 1 if rules == "MOT15" else int(random.integers(1, 14))
        corner, size = random.uniform(0, 200, 2), random.uniform(20, 60, 2)
        last = ("-4.155", "-7.36", "0") if rules == "MOT15" else (label, 0.5)
        for frame in range(1, 21):
            corner = corner + random.normal(0, 2, 2)
            box = [f"{v:.2f}" for v in (*corner, *size)]
            truth.append((frame, track_id, *box, int(random.random() < 0.9), *last))
            if random.random() < 0.8:
                box = [f"{v:.3f}" for v in (*(corner + random.normal(0, 4, 2)), *size)]
                found.append((frame, track_id if frame < 15 else track_id + 20, *box, *RESULT))
    write(tmp_path / "gt" / "S" / "gt" / "gt.txt", *truth)
    write(tmp_path / "results" / "S.txt", *found)
    ours = evaluate_mot(tmp_path / "gt", tmp_path / "results", rules=rules)["sequences"]["S"]
    expected = official(tmp_path / "gt", tmp_path / "results", 20, rules)
    assert [ours[name] for name in ("HOTA", "MOTA", "IDF1", "FP")] == pytest.approx(expected, abs=1e-9)


def test_perfect_results(tmp_path):
    write(tmp_path / "gt" / "S" / "gt.txt", *objects(range(1, 6), 1, 1), *objects(range(1, 6), 2, 50))
    write(
        tmp_path / "S.txt",
        *objects(range(1, 6), 7, 1, extra=RESULT),
        *objects(range(1, 6), 3, 50, extra=RESULT),
    )
    scores = evaluate_mot(tmp_path / "gt", tmp_path)["combined"]
    assert [scores[k] for k in ("HOTA", "MOTA", "IDF1", "LocA")] == pytest.approx([100] * 4)
    assert [scores[k] for k in ("TP", "FP", "FN", "IDSW", "MT", "GT")] == [10, 0, 0, 0, 2, 2]


def test_numbers_worked_out_by_hand(tmp_path):
    # An object of 10 frames: seen as track 1 for 4, as track 2 for 4, missed for 2; one false positive.
    write(tmp_path / "gt" / "S" / "gt.txt", *objects(range(1, 11), 1, 1))
    found = [*objects(range(1, 5), 1, 1, extra=RESULT), *objects(range(5, 9), 2, 1, extra=RESULT)]
    write(tmp_path / "S.txt", *found, *objects([1], 3, 500, extra=RESULT))
    scores = evaluate_mot(tmp_path / "gt", tmp_path)["combined"]
    assert [scores[k] for k in ("TP", "FN", "FP", "IDSW", "PT", "Frag")] == [8, 2, 1, 1, 1, 0]
    assert scores["MOTA"] == pytest.approx(100 * (1 - (2 + 1 + 1) / 10))
    assert scores["IDF1"] == pytest.approx(100 * 2 * 4 / (2 * 4 + 5 + 6))  # IDTP 4, IDFP 5, IDFN 6
    # Each true positive's track shares 4 of 10 frames with the object.
    assert scores["AssA"] == pytest.approx(40)
    assert scores["DetA"] == pytest.approx(100 * 8 / 11)
    assert scores["HOTA"] == pytest.approx(100 * np.sqrt(0.4 * 8 / 11))


def test_frames_without_results_are_misses(tmp_path):
    write(tmp_path / "gt" / "S" / "gt.txt", *objects(range(1, 11), 1, 1))
    write(tmp_path / "S.txt", *objects(range(1, 6), 1, 1, extra=RESULT))
    scores = evaluate_mot(tmp_path / "gt", tmp_path)["combined"]
    assert (scores["TP"], scores["FN"], scores["MOTA"]) == (5, 5, 50)


def test_empty_results_are_all_misses(tmp_path):
    write(tmp_path / "gt" / "A" / "gt.txt", *objects(range(1, 4), 1, 1))
    write(tmp_path / "gt" / "B" / "gt.txt")
    write(tmp_path / "A.txt")
    write(tmp_path / "B.txt")
    scores = evaluate_mot(tmp_path / "gt", tmp_path)
    assert scores["sequences"]["A"]["FN"] == scores["combined"]["FN"] == 3
    assert scores["combined"]["HOTA"] == scores["combined"]["IDF1"] == 0
    json.dumps(scores, allow_nan=False)


def test_distractors_and_ignored_rows(tmp_path):
    pedestrian, distractor = (1, 1, 1), (0, 8, 1)
    truth = [*objects([1, 2], 1, 1, extra=pedestrian), *objects([1, 2], 2, 100, extra=distractor)]
    truth += objects([1, 2], 3, 200, extra=(0, 1, 1))
    found = [*objects([1, 2], 1, 1, extra=RESULT), *objects([1, 2], 2, 100, extra=RESULT)]
    found += objects([1, 2], 3, 200, extra=RESULT)
    write(tmp_path / "gt" / "S" / "gt.txt", *truth)
    write(tmp_path / "S.txt", *found)
    # A match with the distractor is no mistake; one with an ignored pedestrian is.
    assert evaluate_mot(tmp_path / "gt", tmp_path)["combined"]["FP"] == 2
    assert evaluate_mot(tmp_path / "gt", tmp_path, rules="MOT15")["combined"]["FP"] == 4


@pytest.mark.parametrize("name, expected", [("MOT20-01", 0), ("MOT17-02", 1)])
def test_mot20_forgives_vehicles(tmp_path, name, expected):
    truth = [*objects([1], 1, 1), *objects([1], 2, 100, extra=(0, 6, 1))]
    write(tmp_path / "gt" / name / "gt.txt", *truth)
    write(tmp_path / f"{name}.txt", *objects([1], 1, 1, extra=RESULT), *objects([1], 2, 100, extra=RESULT))
    assert evaluate_mot(tmp_path / "gt", tmp_path)["combined"]["FP"] == expected


@pytest.mark.parametrize("truth", ["S/gt/gt.txt", "S/gt.txt", "train/S/gt/gt.txt"])
@pytest.mark.parametrize("results", ["S.txt", "data/S.txt", "S/S.txt"])
def test_layouts(tmp_path, truth, results):
    write(tmp_path / "gt" / truth, *objects([1, 2], 1, 1))
    write(tmp_path / "results" / results, *objects([1, 2], 1, 1, extra=RESULT))
    assert evaluate_mot(tmp_path / "gt", tmp_path / "results")["sequences"]["S"]["MOTA"] == 100


def test_length_from_seqinfo(tmp_path):
    folder = tmp_path / "gt" / "S"
    write(folder / "gt" / "gt.txt", *objects([1, 2], 1, 1))
    write(tmp_path / "S.txt", *objects([1, 2], 1, 1, extra=RESULT), *objects([9], 2, 50, extra=RESULT))
    assert evaluate_mot(tmp_path / "gt", tmp_path)["combined"]["FAR"] == pytest.approx(1 / 9)
    info = (
        "[Sequence]\nname=S\nimDir=img1\nframeRate=25\nseqLength={}\nimWidth=640\nimHeight=480\nimExt=.jpg\n"
    )
    (folder / "seqinfo.ini").write_text(info.format(20))
    assert evaluate_mot(tmp_path / "gt", tmp_path)["combined"]["FAR"] == pytest.approx(1 / 20)
    (folder / "seqinfo.ini").write_text(info.format(5))
    with pytest.raises(UserError, match=r"S\.txt:3: .*seqLength.* is 5"):
        evaluate_mot(tmp_path / "gt", tmp_path)
    (folder / "seqinfo.ini").write_text(info.format(1))
    write(tmp_path / "S.txt")
    with pytest.raises(UserError, match=r"gt\.txt: frame 2, but seqLength .* is 1"):
        evaluate_mot(tmp_path / "gt", tmp_path)


def test_choice_of_sequences(tmp_path):
    for name in "AB":
        write(tmp_path / "gt" / name / "gt.txt", *objects([1], 1, 1))
    write(tmp_path / "A.txt", *objects([1], 1, 1, extra=RESULT))
    assert list(evaluate_mot(tmp_path / "gt", tmp_path, sequences=["A"])["sequences"]) == ["A"]
    with pytest.raises(UserError, match="no ground truth of C"):
        evaluate_mot(tmp_path / "gt", tmp_path, sequences=["A", "C"])
    with pytest.raises(UserError, match="no results of sequence B"):
        evaluate_mot(tmp_path / "gt", tmp_path)


def test_result_file_without_sequence_is_told(tmp_path):
    write(tmp_path / "gt" / "A" / "gt.txt", *objects([1], 1, 1))
    for name in ("A", "other"):
        write(tmp_path / f"{name}.txt", *objects([1], 1, 1, extra=RESULT))
    with pytest.warns(UserWarning, match=r"no ground truth for other\.txt"):
        evaluate_mot(tmp_path / "gt", tmp_path)


def test_bad_input(tmp_path, capfd):
    with pytest.raises(UserError, match="no ground truth; expected"):
        evaluate_mot(tmp_path / "nowhere", tmp_path)
    truth, found = tmp_path / "gt" / "S" / "gt.txt", tmp_path / "S.txt"
    write(truth, *objects([1], 1, 1))
    write(found, *objects([1, 1], 1, 1, extra=RESULT))
    with pytest.raises(UserError, match=r"S\.txt:2: id 1 occurs twice"):
        evaluate_mot(truth.parents[1], tmp_path)
    write(found, *objects([1], -1, 1, extra=RESULT))
    with pytest.raises(UserError, match=r"results of S: .* frame 1 has a negative id"):
        evaluate_mot(truth.parents[1], tmp_path)
    write(found, *objects([1], 1, 1, extra=RESULT))
    write(truth, *objects([1], 1, 1), *objects([1, 1], -1, 50, extra=(0, 1, 1)))
    assert evaluate_mot(truth.parents[1], tmp_path)["combined"]["MOTA"] == 100
    write(truth, *objects([1], -1, 1))
    with pytest.raises(UserError, match="ground truth of S: an object in frame 1 has no id"):
        evaluate_mot(truth.parents[1], tmp_path)
    assert capfd.readouterr() == ("", "")


def test_ground_truth_outside_the_image_counts(tmp_path):
    # TrackEval knows nothing of the image.
    folder = Path(tmp_path / "gt" / "S")
    write(folder / "gt" / "gt.txt", *objects([1], 1, -100))
    (folder / "seqinfo.ini").write_text("[Sequence]\nframeRate=25\nseqLength=1\nimWidth=640\nimHeight=480\n")
    write(tmp_path / "S.txt")
    assert evaluate_mot(tmp_path / "gt", tmp_path)["combined"]["FN"] == 1
