"""How a codec uses its codebook: a codec that does not is a smaller codec than it says."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class CodebookUse:
    """Use of an FSQ codebook by `count` codes.

    Attributes:
        used: share of the codebook's codes that occur.
        entropy_bits: of the code frequencies; log2(codebook) when all are used alike. Counts
            underestimate it: `count` codes can show at most log2(count) bits.
        levels: for each FSQ dimension, the share of each of its levels.
    """

    count: int
    codebook: int
    used: float
    entropy_bits: float
    levels: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict:
        return asdict(self)


def codebook_use(codes: np.ndarray, levels: Sequence[int]) -> CodebookUse:
    """Counts the use of a codebook of prod(levels) codes by `codes`, integers of any shape.

    A code is the sum of level_i times the product of the sizes before i: dimension 0 is the least
    significant (Mentzer et al. 2024, as X-Codec2 numbers its codes).

    Raises:
        ValueError: if there are no codes or one is not in the codebook.
    """
    codes = np.asarray(codes).reshape(-1)
    codebook = math.prod(levels)
    if not codes.size or codes.min() < 0 or codes.max() >= codebook:
        raise ValueError(f"codebook use: needs at least one code, all in [0, {codebook})")
    counts = np.bincount(codes, minlength=codebook)
    shares = counts[counts > 0] / codes.size
    grid = counts.reshape(tuple(levels)[::-1])  # the most significant dimension comes first
    histograms = []
    for dimension in range(len(levels)):
        others = tuple(axis for axis in range(grid.ndim) if axis != grid.ndim - 1 - dimension)
        histograms.append(tuple((grid.sum(others) / codes.size).tolist()))
    return CodebookUse(
        count=codes.size,
        codebook=codebook,
        used=float(np.mean(counts > 0)),
        entropy_bits=float(-(shares * np.log2(shares)).sum()),
        levels=tuple(histograms),
    )
