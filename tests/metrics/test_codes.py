import json
import math

import numpy as np
import pytest

from llasa_jax.metrics.codes import codebook_use


def test_even_use():
    use = codebook_use(np.arange(4**3).reshape(8, 8), (4, 4, 4))
    assert use.used == 1 and use.count == 64 and use.codebook == 64
    assert use.entropy_bits == pytest.approx(6)
    assert use.levels == ((0.25,) * 4,) * 3
    json.dumps(use.to_json(), allow_nan=False)


def test_one_code():
    # 2 + 3 * (1 + 5 * 3): levels 2 of 3, 1 of 5, 3 of 4, the first dimension least significant
    use = codebook_use(np.full(7, 2 + 3 * (1 + 5 * 3)), (3, 5, 4))
    assert use.used == 1 / 60 and use.entropy_bits == 0
    assert [dimension.index(1) for dimension in use.levels] == [2, 1, 3]


def test_histograms_against_division():
    levels = (4,) * 8
    codes = np.random.default_rng(0).integers(0, 4**8, 5000) // 3
    use = codebook_use(codes, levels)
    for i, histogram in enumerate(use.levels):
        expected = np.bincount(codes // 4**i % 4, minlength=4) / len(codes)
        assert histogram == pytest.approx(expected.tolist())
    counts = np.unique(codes, return_counts=True)[1]
    assert use.used == len(counts) / 4**8
    assert use.entropy_bits == pytest.approx(-sum(c / 5000 * math.log2(c / 5000) for c in counts))


@pytest.mark.parametrize("codes", [[], [-1], [16]])
def test_bad_codes(codes):
    with pytest.raises(ValueError, match="codebook"):
        codebook_use(np.array(codes, int), (4, 4))
