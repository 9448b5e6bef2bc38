"""Codes to sound while they arrive: chunks with bounded context, in one compiled shape."""

from collections.abc import Iterable, Iterator

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig
from llasa_jax.errors import UserError

CONTEXT_SECONDS = 0.5  # that a non-causal decoder sees on each side of a chunk


class StreamDecoder:
    """Decodes codes as they come, `chunk` at a time; T codes give T * output_hop samples in all.

    Each chunk is decoded with up to `left` codes before it and `right` after it, anew: that costs
    (left + chunk + right) / chunk times the work of decoding everything at once.

    A causal decoder's contexts are all that it can see, so its sound is that of the whole
    utterance. Another decoder sees half a second to each side: its norms and its attention miss
    the rest, and its sound differs slightly; neighbouring chunks are cross-faded.

    Args:
        config, params: of a `Codec`.
        chunk: codes decoded at a time.
    """

    def __init__(self, config: CodecConfig, params: dict, chunk: int):
        graphdef, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
        self.config, self.params, self.chunk = config, params, chunk
        if config.causal:
            decoder = nn.merge(graphdef, template).decoder
            self.left, self.right, self.fade = decoder.left_context, decoder.right_context, 0
        else:
            self.left = self.right = round(CONTEXT_SECONDS * config.frame_rate)
            self.fade = self.right // 2
        self.decode = jax.jit(lambda p, codes, mask: nn.merge(graphdef, p).decode(codes, mask))

    @property
    def latency(self) -> float:
        """Seconds of codes that must have come before the first sound, and before each chunk."""
        return (self.chunk + self.right) / self.config.frame_rate

    def __call__(self, codes: Iterable[int | np.ndarray]) -> Iterator[np.ndarray]:
        """Waves float32 [samples], each as soon as the codes for it are there.

        How the codes come, singly or in arrays int [n], changes nothing in the sound.

        Raises:
            UserError: if a code is outside the codebook.
        """
        size, hop = self.config.codebook_size, self.config.output_hop
        held, done = np.zeros(0, np.int32), 0  # the first `done` of the codes held have sounded
        tail = np.zeros(0, np.float32)  # the last chunk's own view of what follows it
        for more in codes:
            more = np.atleast_1d(more)
            if more.size and (more.min() < 0 or more.max() >= size):
                raise UserError(f"decode: codes must be in 0..{size - 1}")
            held = np.append(held, more.astype(np.int32))
            while len(held) >= done + self.chunk + self.right:
                wave = self._window(held[: done + self.chunk + self.right])[done * hop :]
                wave = _cross_fade(tail, wave)
                end = self.chunk * hop
                yield wave[:end]
                tail = wave[end : end + self.fade * hop]
                done += self.chunk
                held, done = held[max(0, done - self.left) :], min(done, self.left)
        if len(held) > done:
            yield _cross_fade(tail, self._window(held)[done * hop :])

    def _window(self, codes: np.ndarray) -> np.ndarray:
        """Wave [T * output_hop] of at most left + chunk + right codes [T]."""
        padded = np.zeros((1, self.left + self.chunk + self.right), np.int32)
        mask = np.zeros(padded.shape, np.float32)
        padded[0, : len(codes)], mask[0, : len(codes)] = codes, 1
        wave = self.decode(self.params, padded, mask)
        return np.asarray(wave)[0, : len(codes) * self.config.output_hop]


def _cross_fade(tail: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """The wave, entered from `tail`: two views of the same sound, the first fading out."""
    count = min(len(tail), len(wave))
    share = (np.arange(count, dtype=np.float32) + 0.5) / max(count, 1)
    head = tail[:count] + share * (wave[:count] - tail[:count])
    return np.concatenate([head, wave[count:]])
