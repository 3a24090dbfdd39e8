import numpy as np
import pytest

from mtl_jax.evaluation.reid import evaluate_embeddings


def naive(embeddings, ids, rate):
    """The definitions, word by word."""
    n = len(ids)
    rank1, precisions, alike, different = [], [], [], []
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -embeddings[i] @ embeddings[j])
        if not any(ids[j] == ids[i] for j in others):
            continue
        rank1.append(ids[others[0]] == ids[i])
        hits, total = 0, []
        for place, j in enumerate(others, 1):
            if ids[j] == ids[i]:
                hits += 1
                total.append(hits / place)
        precisions.append(sum(total) / len(total))
    for i in range(n):
        for j in range(i + 1, n):
            (alike if ids[i] == ids[j] else different).append(embeddings[i] @ embeddings[j])
    best = 0
    for threshold in [*alike, *different, -2]:
        if np.mean([s >= threshold for s in different]) <= rate:
            best = max(best, np.mean([s >= threshold for s in alike]))
    return 100 * np.mean(rank1), 100 * np.mean(precisions), 100 * best


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_equals_naive(rate):
    random = np.random.default_rng(0)
    ids = random.integers(0, 8, 40)
    embeddings = random.normal(0, 1, (8, 6))[ids] + random.normal(0, 1.2, (40, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = evaluate_embeddings(embeddings, ids, rate)
    expected = naive(embeddings, ids, rate)
    assert 20 < expected[1] < 90
    assert [scores["rank1"], scores["mAP"], scores[f"TPR@FAR={rate:g}"]] == pytest.approx(expected)


def test_perfect_and_unknown():
    embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0]])
    scores = evaluate_embeddings(embeddings, np.array([3, 3, 7, 7, -1]))
    assert scores == {"rank1": 100, "mAP": 100, "TPR@FAR=0.1": 100}


def test_collapsed_embeddings_tell_nothing_apart():
    scores = evaluate_embeddings(np.tile([[1.0, 0]], (20, 1)), np.arange(20) // 2)
    assert scores["TPR@FAR=0.1"] == 0


@pytest.mark.parametrize("ids", [[], [1], [-1, -1], [1, 2]])
def test_nothing_to_judge_by(ids):
    scores = evaluate_embeddings(np.ones((len(ids), 1)), np.array(ids, int))
    assert set(scores.values()) == {None}
