"""Packing whole examples into rows of one length, so that no position is spent on padding.

The official trainer gives each utterance a row of its own and leaves two thirds of it empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packing:
    """Which examples stand in which row.

    Attributes:
        rows: the indices of each row's examples.
        rejected: the indices of examples longer than a row; they are left out, never cut.
        used: share of the rows' positions that examples take (1 when there are no rows).
    """

    rows: list[list[int]]
    rejected: list[int]
    used: float


def pack(lengths: Sequence[int] | np.ndarray, size: int) -> Packing:
    """Packs examples of these lengths into rows of `size` positions, best fit decreasing.

    From the longest example to the shortest, each goes into the fullest row that still holds it,
    or opens a new one: at most 11/9 of the fewest possible rows (Johnson 1974), in practice about
    as many. The same lengths always give the same rows.

    Raises:
        ValueError: if an example is empty.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size and lengths.min() < 1:
        raise ValueError("packing: an example is empty")
    rows: list[list[int]] = []
    rejected: list[int] = []
    rooms: list[list[int]] = [[] for _ in range(size + 1)]  # by free positions, the rows with them
    present = 0  # bit n is set where rooms[n] has a row: the fullest row is the lowest bit
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        if length > size:
            rejected.append(index)
            continue
        fitting = present >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rooms[free].pop()
            if not rooms[free]:
                present ^= 1 << free
            rows[row].append(index)
        else:
            free, row = size, len(rows)
            rows.append([index])
        free -= length
        rooms[free].append(row)
        present |= 1 << free
    taken = int(lengths.sum() - lengths[rejected].sum())
    used = taken / (len(rows) * size) if rows else 1.0
    return Packing(rows, sorted(rejected), used)
