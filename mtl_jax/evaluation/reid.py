"""How well embeddings tell objects apart."""

import numpy as np
from jaxtyping import Float, Int


def evaluate_embeddings(
    embeddings: Float[np.ndarray, "samples features"],
    track_ids: Int[np.ndarray, "samples"],
    false_accept_rate: float = 0.1,
) -> dict[str, float | None]:
    """Scores embeddings of objects whose identity is known.

    Every sample in turn asks for its identity among all others, ordered by cosine similarity:

    - `rank1`: how often the nearest has the same identity;
    - `mAP`: mean over the samples of the average precision, `AP = 1/|P| Σ_{k ∈ P} (hits among the first k) / k`, where
      `P` are the places of the same identity.

    And over all pairs of samples, `TPR@FAR=0.1`: how many pairs of one identity are above the threshold that a tenth
    of the pairs of different identities passes.

    Samples of the same object in neighbouring frames look alike, so these numbers compare models on the same samples;
    they do not compare data sets.

    Args:
        embeddings: Unit-length embeddings.
        track_ids: Identity of each sample; those with -1 are left out.
        false_accept_rate: The rate at which TPR is read.

    Returns:
        The scores in percent; None where there is no pair to judge by.

    Reference: Wang et al., "Towards Real-Time Multi-Object Tracking", ECCV 2020 (arXiv:1909.12605), for TPR@FAR.
    """
    embeddings, track_ids = np.asarray(embeddings)[track_ids >= 0], track_ids[track_ids >= 0]
    nearest, precision, alike, different = [], [], [], []
    for i, query in enumerate(track_ids):
        similarity = embeddings @ embeddings[i]
        same = track_ids == query
        # Each pair once.
        alike.append(similarity[i + 1 :][same[i + 1 :]])
        different.append(similarity[i + 1 :][~same[i + 1 :]])
        order = np.argsort(-similarity, kind="stable")
        hits = same[order[order != i]]
        if hits.any():
            places = np.flatnonzero(hits) + 1
            nearest.append(hits[0])
            precision.append(np.mean(np.arange(1, len(places) + 1) / places))
    return {
        "rank1": _percent(nearest),
        "mAP": _percent(precision),
        f"TPR@FAR={false_accept_rate:g}": _true_accept_rate(alike, different, false_accept_rate),
    }


def _true_accept_rate(
    alike_parts: list[np.ndarray], different_parts: list[np.ndarray], false_accept_rate: float
) -> float | None:
    nothing = np.zeros(0)
    alike, different = np.concatenate([nothing, *alike_parts]), np.concatenate([nothing, *different_parts])
    if not alike.size or not different.size:
        return None
    # Strictly above the threshold are no more than the given share of the pairs of different identities.
    rejected = different.size - int(false_accept_rate * different.size)
    threshold = np.partition(different, rejected - 1)[rejected - 1] if rejected else -np.inf
    return _percent(alike > threshold)


def _percent(values) -> float | None:
    return 100 * float(np.mean(values)) if len(values) else None
