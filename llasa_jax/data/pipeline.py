"""Packed batches for the language model: element i is the batch of training step i.

The dataset is a pure function of the seed and i, so that its place after a restart is a number, and
the global batch is the same for any number of processes.
"""

from collections.abc import Sequence

import grain
import numpy as np

from llasa_jax.data.shards import Row, TokenShards, decode_row, encode_row
from llasa_jax.errors import UserError

Batch = dict[str, np.ndarray]

_EMPTY = encode_row(Row(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, bool)))


def packed_batches(
    shards: TokenShards, batch: int, seed: int, *, process: int = 0, processes: int = 1
) -> grain.MapDataset:
    """Endless training batches (`collate`); each epoch shuffles all rows anew by the seed.

    Args:
        shards: the rows.
        batch: rows of the global batch.
        seed: of the shuffle.
        process, processes: this process gets rows [process, process + 1) * batch / processes of
            each global batch, the block that `jax.make_array_from_process_local_data` expects.

    Raises:
        UserError: if the batch does not divide by the processes.
    """
    rows = grain.MapDataset.source(shards).seed(seed).shuffle().repeat()
    return _blocks(rows, shards, batch, process, processes)


def ordered_batches(
    shards: TokenShards, batch: int, *, process: int = 0, processes: int = 1
) -> grain.MapDataset:
    """Every row once, in order, for validation; empty rows (weight 0) fill the last batch.

    Raises:
        UserError: if the batch does not divide by the processes.
    """
    count = len(shards)
    filled = grain.MapDataset.range(-(-count // batch) * batch)
    rows = filled.map(lambda index: shards[index] if index < count else _EMPTY)
    return _blocks(rows, shards, batch, process, processes)


def _blocks(
    rows: grain.MapDataset, shards: TokenShards, batch: int, process: int, processes: int
) -> grain.MapDataset:
    """Batches of `batch` / `processes` rows, of which this process takes every `processes`-th."""
    if batch < 1 or batch % processes:
        raise UserError(f"batch of {batch} rows does not divide by {processes} processes")
    blocks = rows.batch(
        batch // processes,
        drop_remainder=True,
        batch_fn=lambda records: collate([_row(record, shards) for record in records], shards.row),
    )
    return blocks if processes == 1 else blocks[process::processes]


def _row(record: bytes, shards: TokenShards) -> Row:
    """The row of a record, whose ids must be those that the manifest promises."""
    row = decode_row(record)
    largest = shards.manifest["largest"]
    wrong = row.ids[(row.ids < 0) | (row.ids > largest)]
    if wrong.size:  # an embedding table would take its last row for it, in silence
        raise UserError(f"{shards.folder}: id {wrong[0]} is not in 0..{largest}; prepare it again")
    return row


def collate(rows: Sequence[Row], size: int) -> Batch:
    """Arrays of packed rows, each [B, S] with S = `size`.

    Returns:
        tokens int32 (0 after the last example); targets int32, the next id of the same example (0
        for its last id); weights float32 of the targets in the loss; positions int32 within the
        example; segments int32, examples counted from 1 and 0 for padding.
    """
    shape = (len(rows), size)
    tokens, targets, positions, segments = (np.zeros(shape, np.int32) for _ in range(4))
    weights = np.zeros(shape, np.float32)
    for b, (lengths, ids, learned) in enumerate(rows):
        n = len(ids)
        ends = np.cumsum(lengths)
        tokens[b, :n] = ids
        targets[b, :n][:-1] = ids[1:]
        weights[b, :n][:-1] = learned[1:]
        targets[b, ends - 1] = 0  # what follows is another example's first id
        weights[b, ends - 1] = 0
        positions[b, :n] = np.arange(n) - np.repeat(ends - lengths, lengths)
        segments[b, :n] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return {
        "tokens": tokens,
        "targets": targets,
        "weights": weights,
        "positions": positions,
        "segments": segments,
    }
