"""Batches of waves for training: element i is the batch of step i, whatever came before.

Every dataset here is a `grain.MapDataset` that is a pure function of (seed, step), so that a
resumed run needs no state. Grain's own per-element shuffle costs about 2 ms an item in Python;
here a step draws all its items at once.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError

Batch = dict[str, np.ndarray]


def by_step(build: Callable[[int], Batch]) -> grain.MapDataset:
    """The endless dataset whose element i is `build(i)`."""
    return grain.MapDataset.range(sys.maxsize).map(build)


def crops(
    store: WaveStore,
    indices: Sequence[int],
    seconds: float,
    batch: int,
    seed: int,
    shares: Mapping[str, float] | None = None,
) -> grain.MapDataset:
    """Random crops: {"wave": float32 [B, samples]}, shorter waves padded with zeros on the right.

    Every second of speech is as likely as any other (a wave shorter than a crop counts as one).

    Args:
        indices: the waves of `store` to draw from.
        seconds: length of a crop.
        shares: share of the crops for each kind ("recorded", "synthetic"); kinds that `indices`
            lacks give their share to the others. None draws by seconds alone.

    Raises:
        UserError: if nothing is left to draw from.
    """
    size = round(seconds * store.rate)
    weight = np.array([max(store.samples(i), size) for i in indices], np.float64)
    if shares is not None:
        kinds = np.array([store.utterances[i].kind for i in indices])
        for kind in np.unique(kinds):
            of_kind = kinds == kind
            weight[of_kind] *= shares.get(str(kind), 0.0) / weight[of_kind].sum()
    if not weight.sum() > 0:
        raise UserError("no recording to draw crops from; check the corpus and the shares of kinds")
    bounds = np.cumsum(weight) / weight.sum()

    def build(step: int) -> Batch:
        rng = np.random.default_rng((seed, step))
        chosen = np.searchsorted(bounds, rng.random(batch), side="right")
        wave = np.zeros((batch, size), np.float32)
        for row, index in zip(wave, np.minimum(chosen, len(indices) - 1), strict=True):
            source = store[indices[index]][1]
            start = rng.integers(max(len(source) - size, 0) + 1)
            piece = source[start : start + size]
            row[: len(piece)] = piece
        return {"wave": wave}

    return by_step(build)
