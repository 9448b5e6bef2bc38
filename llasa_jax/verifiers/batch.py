"""Texts of lists of waves of any lengths, and labels of few lengths: few programs are compiled."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

LABEL_MULTIPLE = 32
PAD_SECONDS = 1.28


def pad_labels(labels: np.ndarray, filler: int = 0) -> np.ndarray:
    """Labels int32 [n], filled up to a multiple of 32."""
    return np.pad(labels, (0, -len(labels) % LABEL_MULTIPLE), constant_values=filler)


class BatchTranscriber:
    """Transcripts of lists of waves of any lengths, each as it would be alone.

    Args:
        best: (params, waves float32 [B, samples], lengths int32 [B]) -> ids int32 [B, T]; pure.
        read: ids int32 [T] of one wave -> its text.
        rate: of the waves, a second.
        pad_seconds: they are padded to multiples of this.
        name: what it is called when it judges.
    """

    def __init__(
        self,
        best: Callable[[dict, jax.Array, jax.Array], jax.Array],
        params: dict,
        read: Callable[[np.ndarray], str],
        *,
        rate: int,
        name: str,
        pad_seconds: float = PAD_SECONDS,
        batch: int = 16,
    ):
        self.params, self.name, self.batch = params, name, batch
        self._best, self._read, self._unit = jax.jit(best), read, round(pad_seconds * rate)

    def transcribe(
        self, waves: Sequence[np.ndarray], on_wave: Callable[[], None] = lambda: None
    ) -> list[str]:
        """What is said in each wave, float32 [samples] at the recogniser's rate.

        Args:
            on_wave: called as each wave is done.
        """
        texts = [""] * len(waves)
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        for start in range(0, len(order), self.batch):
            items = order[start : start + self.batch]
            size = -(-max(len(waves[items[-1]]), 1) // self._unit) * self._unit
            padded = np.zeros((self.batch, size), np.float32)
            lengths = np.zeros(self.batch, np.int32)
            for row, i in enumerate(items):
                padded[row, : len(waves[i])] = waves[i]
                lengths[row] = len(waves[i])
            paths = np.asarray(self._best(self.params, padded, lengths))
            for row, i in enumerate(items):
                texts[i] = self._read(paths[row])
                on_wave()
        return texts
