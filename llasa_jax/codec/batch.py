"""Folders' worth of waves and codes through the codec, in few padded shapes."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig
from llasa_jax.errors import UserError

FRAMES = 64  # lengths are padded to multiples of this many frames: few programs are compiled


class BatchCodec:
    """Encodes and decodes lists of any lengths; each item comes out as it would alone.

    A wave of N samples has N // hop codes, the convention of Llasa's training data: the
    incomplete last frame is dropped.
    """

    def __init__(self, config: CodecConfig, params: dict, batch: int = 16):
        graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
        self.config, self.params, self.batch = config, params, batch
        self._encode = jax.jit(lambda p, wave, mask: nn.merge(graphdef, p).encode(wave, mask))
        self._decode = jax.jit(lambda p, codes, mask: nn.merge(graphdef, p).decode(codes, mask))

    def encode(
        self, waves: Sequence[np.ndarray], on_batch: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Codes int32 [N // hop] of each wave float32 [N] at the codec's rate.

        Args:
            on_batch: called with the number of waves just done.

        Raises:
            UserError: if a wave is shorter than one hop.
        """
        hop = self.config.hop
        sizes = [len(wave) // hop for wave in waves]
        if sizes and min(sizes) == 0:
            raise UserError(f"encode: a wave is shorter than one frame of {hop} samples; leave it")
        codes: list[np.ndarray] = [np.zeros(0, np.int32)] * len(waves)
        for items, frames in self._buckets(sizes):
            wave = np.zeros((self.batch, frames * hop), np.float32)
            mask = np.zeros((self.batch, frames), np.float32)
            for row, i in enumerate(items):
                wave[row, : sizes[i] * hop] = waves[i][: sizes[i] * hop]
                mask[row, : sizes[i]] = 1
            found = np.asarray(self._encode(self.params, wave, mask))
            for row, i in enumerate(items):
                codes[i] = found[row, : sizes[i]]
            on_batch(len(items))
        return codes

    def decode(
        self, codes: Sequence[np.ndarray], on_batch: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Wave float32 [T * hop] of each code sequence int [T].

        Raises:
            UserError: if a sequence is empty or holds a code outside the codebook.
        """
        size, hop = self.config.codebook_size, self.config.hop
        for sequence in codes:
            if len(sequence) == 0 or np.min(sequence) < 0 or np.max(sequence) >= size:
                raise UserError(f"decode: needs at least one code, each in 0..{size - 1}")
        waves: list[np.ndarray] = [np.zeros(0, np.float32)] * len(codes)
        for items, frames in self._buckets([len(sequence) for sequence in codes]):
            padded = np.zeros((self.batch, frames), np.int32)
            mask = np.zeros((self.batch, frames), np.float32)
            for row, i in enumerate(items):
                padded[row, : len(codes[i])] = codes[i]
                mask[row, : len(codes[i])] = 1
            found = np.asarray(self._decode(self.params, padded, mask))
            for row, i in enumerate(items):
                waves[i] = found[row, : len(codes[i]) * hop]
            on_batch(len(items))
        return waves

    def _buckets(self, sizes: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Batches of indices of similar size, each with its padded number of frames."""
        order = sorted(range(len(sizes)), key=lambda i: sizes[i])
        for start in range(0, len(order), self.batch):
            items = order[start : start + self.batch]
            yield items, -(-sizes[items[-1]] // FRAMES) * FRAMES
