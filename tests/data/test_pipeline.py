import numpy as np
import pytest

from llasa_jax.data.pipeline import (
    PATTERN,
    READING,
    RowOrder,
    Source,
    collate,
    ordered_batches,
    packed_batches,
)
from llasa_jax.data.shards import Row, TokenShards, write_shards
from llasa_jax.errors import UserError

SIZE = 48


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Example k holds the ids 1000 k, 1000 k + 1, ...; its second half is learned."""
    rng = np.random.default_rng(0)
    examples = []
    for k, n in enumerate(rng.integers(2, 40, 60), start=1):
        examples.append((1000 * k + np.arange(n), (np.arange(n) >= n // 2).astype(np.float32)))
    folder = tmp_path_factory.mktemp("tokens") / "train"
    return write_shards(folder, examples, row=SIZE, codec="c", vocabulary="v", about={})


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].dtype == b[name].dtype


def test_collate_by_hand():
    row = Row(np.array([3, 2]), np.array([5, 6, 7, 8, 9]), np.array([0, 1, 1, 0, 1], bool))
    batch = collate([row, Row(np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))], 7)
    expected = {
        "tokens": [5, 6, 7, 8, 9, 0, 0],
        "targets": [6, 7, 0, 9, 0, 0, 0],
        "weights": [1, 1, 0, 1, 0, 0, 0],
        "positions": [0, 1, 2, 0, 1, 0, 0],
        "segments": [1, 1, 1, 2, 2, 0, 0],
    }
    for name, values in expected.items():
        assert batch[name].shape == (2, 7)
        assert batch[name].dtype == (np.float32 if name == "weights" else np.int32)
        assert batch[name][0].tolist() == values
        assert not batch[name][1].any()


def test_targets_stay_in_their_segment(shards):
    for batch in ordered_batches(shards, 4):
        predicted = batch["targets"] > 0
        np.testing.assert_array_equal(batch["targets"][predicted], batch["tokens"][predicted] + 1)
        assert not batch["weights"][~predicted].any()
        np.testing.assert_array_equal(batch["positions"], batch["tokens"] % 1000)
        for tokens, segments in zip(batch["tokens"], batch["segments"], strict=True):
            for segment in range(1, segments.max() + 1):
                assert len(set(tokens[segments == segment] // 1000)) == 1
            assert not tokens[segments == 0].any()


def test_ordered_batches_hold_every_row_once(shards):
    batches = list(ordered_batches(shards, 4))
    assert len(batches) == -(-len(shards) // 4)
    assert len(shards) % 4  # so that the last batch is filled with empty rows
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    assert tokens.shape == (4 * len(batches), SIZE)
    assert len(np.unique(tokens[tokens > 0])) == shards.manifest["ids"] == (tokens > 0).sum()
    # The first id of an example has nothing before it; here none of those is learned.
    assert sum(batch["weights"].sum() for batch in batches) == shards.manifest["learned"]


def rows_of(batches):
    return [tuple(row) for batch in batches for row in batch["tokens"]]


def test_each_epoch_holds_all_rows_in_a_new_order(shards):
    rows, batch = len(shards), 4
    dataset = packed_batches(shards, batch, seed=1)
    stream = rows_of(dataset[i] for i in range(3 * rows // batch + 1))
    epochs = [stream[i * rows : (i + 1) * rows] for i in range(3)]
    everything = sorted(rows_of(ordered_batches(shards, 1)))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != everything
    assert epochs[0] != rows_of(packed_batches(shards, 1, seed=2)[i] for i in range(rows))


def test_a_batch_depends_on_seed_and_step_alone(shards):
    dataset = packed_batches(shards, 4, seed=1)
    expected = [dataset[i] for i in range(30)]
    fresh = packed_batches(shards, 4, seed=1)
    for step in (29, 3, 17, 3):
        equal(fresh[step], expected[step])
    iterator = iter(fresh.to_iter_dataset())
    for step in range(10):
        equal(next(iterator), expected[step])
    state = iterator.get_state()
    resumed = iter(packed_batches(shards, 4, seed=1).to_iter_dataset())
    resumed.set_state(state)
    equal(next(resumed), expected[10])


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("make", [lambda *a, **k: packed_batches(*a, 3, **k), ordered_batches])
def test_the_global_batch_is_the_same_for_any_number_of_processes(shards, make, processes):
    whole = make(shards, 8)
    parts = [make(shards, 8, process=p, processes=processes) for p in range(processes)]
    for step in (0, 1, len(shards) // 8):
        pieces = [part[step] for part in parts]
        equal({name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}, whole[step])


def test_a_batch_that_does_not_divide(shards):
    with pytest.raises(UserError, match="divide"):
        packed_batches(shards, 6, 0, processes=4)
    with pytest.raises(UserError):
        packed_batches(shards, 0, 0)


def test_one_row_a_batch_and_far_steps(shards):
    dataset = packed_batches(shards, 1, seed=0)
    assert dataset[10**9]["tokens"].shape == (1, SIZE)


def test_an_id_that_the_manifest_does_not_know(shards):
    largest = shards.manifest["largest"]
    changed = TokenShards(shards.folder, shards.manifest | {"largest": largest - 1})
    with pytest.raises(UserError, match=f"id {largest} is not in 0..{largest - 1}"):
        list(ordered_batches(changed, 4))
    with pytest.raises(UserError, match=f"id {largest} is out of the vocabulary of {largest}"):
        TokenShards.open(shards.folder, ids=largest)
    assert len(TokenShards.open(shards.folder, ids=largest + 1)) == len(shards)


def test_sources_take_turns_by_their_weights():
    order = RowOrder([7, 5, 3], [3, 1, 0.5], seed=4)
    source, row = order(np.arange(3 * PATTERN))
    shares = np.bincount(source) / len(source)
    np.testing.assert_allclose(shares, np.array([3, 1, 0.5]) / 4.5, atol=2 / PATTERN)
    window = np.bincount(source[1000:1090], minlength=3)  # and evenly at once
    np.testing.assert_allclose(window, [60, 20, 10], atol=1)
    for number, length in enumerate([7, 5, 3]):
        rows = row[source == number]
        epochs = rows[: len(rows) // length * length].reshape(-1, length)
        assert (np.sort(epochs, axis=1) == np.arange(length)).all()
        assert len({tuple(epoch) for epoch in epochs[:50]}) > 2


def test_a_slot_is_computed_alone():
    order = RowOrder([1000, 10], [1, 2], seed=9)
    whole = order(np.arange(2 * PATTERN, 2 * PATTERN + 500))
    some = order(np.array([2 * PATTERN + 499, 2 * PATTERN]))
    for ours, theirs in zip(some, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[[499, 0]])
    other = RowOrder([1000, 10], [1, 2], seed=10)(np.arange(2 * PATTERN, 2 * PATTERN + 500))
    assert (whole[1] != other[1]).any()


@pytest.fixture(scope="module")
def mixture(shards, tmp_path_factory):
    """The rows above and twenty examples of ids above 100,000, one to two."""
    examples = [(100_000 + 100 * k + np.arange(9), np.ones(9)) for k in range(20)]
    folder = tmp_path_factory.mktemp("more") / "train"
    more = write_shards(folder, examples, row=SIZE, codec="c", vocabulary="v", about={})
    return [Source(shards, 1.0), Source(more, 2.0)]


def batches_of(mixture, process, processes, first, last):
    """As a training run reads them: by Grain's threads, from a step on."""
    made = packed_batches(mixture, 8, 5, process=process, processes=processes)
    reader = iter(made[first:last].to_iter_dataset(READING))
    return list(reader)


def test_the_same_global_batches_after_any_restart_and_on_any_number_of_processes(mixture):
    whole = batches_of(mixture, 0, 1, 0, 24)
    assert 0 < np.mean([np.mean(b["tokens"] >= 100_000) for b in whole]) < 1
    # Restarted at every third step; the number of processes changes each time.
    for first in range(0, 24, 3):
        processes = (1, 2, 4)[first // 3 % 3]
        parts = [batches_of(mixture, p, processes, first, first + 3) for p in range(processes)]
        for step in range(3):
            pieces = [part[step] for part in parts]
            joined = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
            equal(joined, whole[first + step])


def test_mixtures_that_cannot_be(mixture, shards, tmp_path):
    other = write_shards(
        tmp_path / "t", [(np.arange(1, 9), np.ones(8))], row=9, codec="c", vocabulary="v", about={}
    )
    with pytest.raises(UserError, match="rows of 9 ids"):
        packed_batches([*mixture, Source(other)], 8, 0)
    with pytest.raises(UserError, match="weight 0"):
        packed_batches([Source(shards, 0.0)], 8, 0)
