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


def _paper_lengths(count):
    """Ids of utterances of 11.6 s at the mean: codes, text and template in Llama 3's ids."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(11.6) - 0.6**2 / 2, 0.6, count), 0.5, 60)
    return np.round(seconds * 50).astype(int) + np.round(seconds * 3.5).astype(int) + 45


def _quickstart_lengths(count):
    """Drawn from what quickstart's 1,234 training utterances have, by their twentieths."""
    twentieths = [100, 123, 134, 143, 153, 161, 169, 177, 186, 195, 204]
    twentieths += [214, 223, 235, 247, 261, 277, 296, 317, 341, 424]
    draws = np.random.default_rng(0).random(count)
    return np.round(np.interp(draws, np.linspace(0, 1, 21), twentieths)).astype(int)


@pytest.mark.parametrize(
    "lengths, size", [(_paper_lengths(20_000), 2048), (_quickstart_lengths(1234), 512)]
)
def test_rows_carry_loss_or_conditioning(lengths, size):
    """At least 97 % of the positions; an example's last id is none, for nobody sees it."""
    packing = pack(lengths, size)
    placed = len(lengths) - len(packing.rejected)
    assert packing.used - placed / (size * len(packing.rows)) >= 0.97
    alone = lengths[lengths <= size].mean() / size
    assert packing.used > 2 * alone  # what a row for each utterance would hold
    assert packing.rejected == np.flatnonzero(lengths > size).tolist()
    assert all(lengths[row].sum() <= size for row in packing.rows)


def test_an_empty_example_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        pack([3, 0], 8)
