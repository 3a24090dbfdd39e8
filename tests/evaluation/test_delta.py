import numpy as np
import pytest

from mtl_jax.evaluation.delta import delta_m, is_comparable


def test_lower_is_better_in_both_directions():
    # An accuracy that falls by a tenth and an error that rises by a fifth are both losses.
    np.testing.assert_allclose(delta_m([0.9, 12.0], [1.0, 10.0], (True, False)), 15)
    np.testing.assert_allclose(delta_m([[1.1, 10.0], [1.0, 9.0]], [1.0, 10.0], (True, False)), [-5, -5])


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="expected as many of each"):
        delta_m([1.0, 2.0], [1.0], (True,))
    with pytest.raises(ValueError, match="a baseline is zero"):
        delta_m([1.0], [0.0], (True,))


def test_what_cannot_be_compared_with():
    assert is_comparable([1.0, -2.0])
    assert not is_comparable([1.0, 0.0])
    assert not is_comparable([1.0, float("nan")])
