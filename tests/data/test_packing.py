import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.data.packing import pack

LENGTHS = st.lists(st.integers(1, 70), max_size=80)


@given(LENGTHS, st.integers(1, 64))
def test_every_example_stands_whole_in_one_row_or_is_rejected(lengths, size):
    packing = pack(lengths, size)
    placed = [index for row in packing.rows for index in row]
    assert sorted(placed + packing.rejected) == list(range(len(lengths)))
    assert packing.rejected == [i for i, n in enumerate(lengths) if n > size]
    assert all(0 < sum(lengths[i] for i in row) <= size for row in packing.rows)
    assert packing == pack(np.array(lengths), size)
    taken = sum(lengths[i] for i in placed)
    assert packing.used == (taken / (size * len(packing.rows)) if packing.rows else 1)


@given(LENGTHS, st.integers(1, 64))
def test_it_is_best_fit_decreasing(lengths, size):
    """The same rows as the rule written as a loop over all rows."""
    expected = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > size:
            continue
        fits = [row for row in expected if row["free"] >= length]
        if fits:
            row = min(fits, key=lambda row: (row["free"], -row["touched"]))
        else:
            row = {"free": size, "examples": []}
            expected.append(row)
        row["free"] -= length
        row["examples"].append(index)
        row["touched"] = sum(len(r["examples"]) for r in expected)
    assert pack(lengths, size).rows == [row["examples"] for row in expected]


def _speech_lengths(count, rng):
    """Codes, text bytes and the template of utterances of about 1 to 20 s, 5 s at the median."""
    seconds = np.clip(rng.lognormal(np.log(5), 0.55, count), 0.8, 20)
    return np.round(seconds * 50 + seconds * 14 + 24).astype(int)


def test_rows_are_full_on_speech():
    lengths = _speech_lengths(5000, np.random.default_rng(0))
    packing = pack(lengths, 2048)
    assert packing.used > 0.99
    fewest = -(-lengths.sum() // 2048)
    assert len(packing.rows) <= 1.01 * fewest


def test_an_empty_example_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        pack([3, 0], 8)
