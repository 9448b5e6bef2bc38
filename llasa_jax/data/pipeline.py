"""Packed batches for the language model: element i is the batch of training step i.

The dataset is a pure function of the seed and i, so that its place after a restart is a number, and
the global batch is the same for any number of processes. A step draws, reads and lays out all its
rows at once: an element at a time, Python would cost more than the disk.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

from llasa_jax.data.batches import share_of
from llasa_jax.data.shards import Row, TokenShards, decode_row
from llasa_jax.data.shuffle import mix, permute
from llasa_jax.errors import UserError

Batch = dict[str, np.ndarray]

READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # batches made ahead
PATTERN = 1 << 16  # slots after which the order of sources repeats; weights are parts of it
_NO_ROW = Row(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, bool))


@dataclass(frozen=True)
class Source:
    """Rows, and their share of the mixture before it is scaled to a sum of 1."""

    shards: TokenShards
    weight: float = 1.0


class RowOrder:
    """Which row of which source stands at each slot of the endless stream of rows.

    Sources alternate as evenly as their weights allow. Each is gone through epoch by epoch, every
    row once an epoch, in an order of its own.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._lengths = lengths
        self._seed = seed
        shares = PATTERN * np.asarray(weights, np.float64) / np.sum(weights)
        counts = np.floor(shares).astype(np.int64)
        counts[np.argsort(counts - shares)[: PATTERN - counts.sum()]] += 1
        times = np.concatenate([(np.arange(n) + 0.5) / n for n in counts if n])
        source = np.repeat(np.arange(len(counts)), counts)
        self._counts = counts
        self._source = source[np.argsort(times, kind="stable")]
        self._rank = np.zeros(PATTERN, np.int64)
        for number, n in enumerate(counts):
            self._rank[self._source == number] = np.arange(n)

    def __call__(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the source and of the row, int64 [n] each, of slots int64 [n]."""
        rounds, place = np.divmod(slots, PATTERN)
        source = self._source[place]
        drawn = rounds * self._counts[source] + self._rank[place]
        row = np.zeros(len(slots), np.int64)
        for number, length in enumerate(self._lengths):
            mine = np.flatnonzero(source == number)
            if mine.size:
                epoch, rest = np.divmod(drawn[mine], length)
                key = mix(mix(mix(np.uint64(self._seed % 2**64)) + np.uint64(number)))
                keys = mix(key + epoch.astype(np.uint64))
                row[mine] = permute(rest, length, keys)
        return source, row


def packed_batches(
    sources: TokenShards | Sequence[Source],
    batch: int,
    seed: int,
    *,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """Endless training batches (`collate`); each epoch of a source is shuffled anew by the seed.

    Args:
        sources: the rows, or several folders of rows with their weights.
        batch: rows of the global batch.
        seed: of the shuffle.
        process, processes: this process gets rows [process, process + 1) * batch / processes of
            each global batch, the block that `jax.make_array_from_process_local_data` expects.

    Raises:
        UserError: if the batch does not divide by the processes, or rows differ in length.
    """
    mixed = [Source(sources)] if isinstance(sources, TokenShards) else list(sources)
    rows = share_of(batch, processes)
    size = mixed[0].shards.row
    for one in mixed:
        if one.shards.row != size:
            raise UserError(
                f"{one.shards.folder}: rows of {one.shards.row} ids, {mixed[0].shards.folder} has "
                f"{size}; prepare them alike"
            )
        if not one.weight > 0:
            raise UserError(f"{one.shards.folder}: weight {one.weight}; leave it out, or above 0")
    order = RowOrder([len(one.shards) for one in mixed], [one.weight for one in mixed], seed)

    def build(step: int) -> Batch:
        source, row = order(step * batch + process * rows + np.arange(rows))
        drawn = [_NO_ROW] * rows
        for number in np.unique(source):
            mine = np.flatnonzero(source == number)
            for place, one in zip(mine, _rows(mixed[number].shards, row[mine]), strict=True):
                drawn[place] = one
        return collate(drawn, size)

    return grain.MapDataset.range(sys.maxsize).map(build)


def ordered_batches(
    shards: TokenShards, batch: int, *, process: int = 0, processes: int = 1
) -> grain.MapDataset:
    """Every row once, in order, for validation; empty rows (weight 0) fill the last batch.

    Raises:
        UserError: if the batch does not divide by the processes.
    """
    rows = share_of(batch, processes)

    def build(step: int) -> Batch:
        first = step * batch + process * rows
        present = np.arange(first, min(first + rows, len(shards)))
        return collate([*_rows(shards, present), *[_NO_ROW] * (rows - len(present))], shards.row)

    return grain.MapDataset.range(-(-len(shards) // batch)).map(build)


def _rows(shards: TokenShards, indices: np.ndarray) -> list[Row]:
    """Rows whose ids must be those that the manifest promises."""
    rows = [decode_row(record) for record in shards.read(indices)]
    largest = shards.manifest["largest"]
    for row in rows:
        # An embedding table would take its last row for it, in silence.
        if row.ids.size and not 0 <= row.ids.min() <= row.ids.max() <= largest:
            wrong = row.ids[(row.ids < 0) | (row.ids > largest)][0]
            raise UserError(f"{shards.folder}: id {wrong} is not in 0..{largest}; prepare it again")
    return rows


def collate(rows: Sequence[Row], size: int) -> Batch:
    """Arrays of packed rows, each [B, S] with S = `size`.

    Returns:
        tokens int32 (0 after the last example); targets int32, the next id of the same example (0
        for its last id); weights float32 of the targets in the loss; positions int32 within the
        example; segments int32, examples counted from 1 and 0 for padding.
    """
    shape = (len(rows), size)
    tokens, learned = np.zeros(shape, np.int32), np.zeros(shape, bool)
    starts = np.zeros((len(rows), size + 1), np.int32)  # 1 at an example's first place
    used = np.zeros((len(rows), 1), np.int32)
    for b, (lengths, ids, bits) in enumerate(rows):
        n = len(ids)
        tokens[b, :n] = ids
        learned[b, :n] = bits
        starts[b, np.cumsum(lengths)] = 1
        starts[b, 0] = used[b] = n
    starts[:, 0] = starts[:, 0] > 0
    places = np.arange(size, dtype=np.int32)
    filled = places < used
    first = starts[:, :size]
    segments = np.cumsum(first, axis=1, dtype=np.int32)
    segments[~filled] = 0
    positions = places - np.maximum.accumulate(first * places, axis=1)
    positions[~filled] = 0
    follows = np.zeros(shape, bool)  # the next id belongs to the same example
    follows[:, :-1] = (starts[:, 1:size] == 0) & filled[:, 1:]
    targets = np.zeros(shape, np.int32)
    np.copyto(targets[:, :-1], tokens[:, 1:], where=follows[:, :-1])
    weights = np.zeros(shape, np.float32)
    weights[:, :-1] = learned[:, 1:] & follows[:, :-1]
    return {
        "tokens": tokens,
        "targets": targets,
        "weights": weights,
        "positions": positions,
        "segments": segments,
    }
