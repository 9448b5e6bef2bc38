"""Codes to sound while they arrive: chunks with bounded context, in one compiled shape."""

from collections.abc import Iterable, Iterator
from itertools import chain

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig
from llasa_jax.errors import UserError

CHUNK_SECONDS = 2.0  # of a chunk, if nothing else is said
CONTEXT_SECONDS = 1.0  # that a non-causal decoder sees after a chunk
MEMORY_SECONDS = 10.0  # that its attention remembers


class StreamDecoder:
    """Decodes codes as they come, `chunk` at a time; T codes give T * output_hop samples in all.

    Each chunk is decoded with `left` codes before it, as far as convolutions reach, and `right`
    codes after it: (left + chunk + right) / chunk times the work of decoding everything at once.
    What went before, attention and norms remember.

    A causal decoder needs two codes to the right, which overlap in the ISTFT, and gives the sound
    of the whole utterance. Any other would listen to all that follows: its sound differs from that
    of the whole utterance, and neighbouring chunks are cross-faded.

    Args:
        config, params: of a `Codec`.
        chunk: codes decoded at a time; default: those of 2 s.
    """

    def __init__(self, config: CodecConfig, params: dict, chunk: int | None = None):
        graphdef, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
        self.config = config
        self.chunk = round(CHUNK_SECONDS * config.frame_rate) if chunk is None else chunk
        self._decoder = nn.merge(graphdef, template).decoder
        graphdef, self.params = nn.for_inference(graphdef, params)
        self.left, self.right = self._decoder.reach
        if config.causal:
            self.fade, self.memory = 0, self.left + config.window
        else:
            self.right = max(self.right, round(CONTEXT_SECONDS * config.frame_rate))
            self.fade = (self.right - self._decoder.reach[1]) // 2
            self.memory = round(MEMORY_SECONDS * config.frame_rate)

        def decode(p: dict, codes: jax.Array, mask: jax.Array, past: dict) -> tuple:
            span = nn.Span(self.left, self.chunk)
            return nn.merge(graphdef, p).decode_window(codes, mask, span, past)

        self.decode = jax.jit(decode)

    @property
    def latency(self) -> float:
        """Seconds of codes that must have come before the first sound, and before each chunk."""
        return (self.chunk + self.right) / self.config.frame_rate

    def __call__(
        self, codes: Iterable[int | np.ndarray], before: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """Waves float32 [samples], each as soon as the codes for it are there.

        How the codes come, singly or in arrays int [n], changes nothing in the sound.

        Args:
            before: codes int [n] which these go on from, as from a voice's prompt. They are heard
                first and do not sound; a non-causal decoder then knows the voice from the start.

        Raises:
            UserError: if a code is outside the codebook.
        """
        if before is None:
            yield from self._waves(codes)
            return
        silent = len(before) * self.config.output_hop
        for wave in self._waves(chain([before], codes)):
            if len(wave) > silent:
                yield wave[silent:]
            silent = max(0, silent - len(wave))

    def _waves(self, codes: Iterable[int | np.ndarray]) -> Iterator[np.ndarray]:
        size, hop = self.config.codebook_size, self.config.output_hop
        held = np.zeros(0, np.int32)
        left = 0  # of the codes held, so many have sounded
        past = self._decoder.memory(1, self.memory)
        tail = np.zeros(0, np.float32)  # the last chunk's own view of what follows it
        for more in codes:
            more = np.atleast_1d(more)
            if more.size and (more.min() < 0 or more.max() >= size):
                raise UserError(f"decode: codes must be in 0..{size - 1}")
            held = np.append(held, more.astype(np.int32))
            while len(held) >= left + self.chunk + self.right:
                wave, past = self._window(held[: left + self.chunk + self.right], left, past)
                wave = _cross_fade(tail, wave)
                end = self.chunk * hop
                yield wave[:end]
                tail = wave[end : end + self.fade * hop]
                left += self.chunk
                held, left = held[max(0, left - self.left) :], min(left, self.left)
        if len(held) > left:
            yield _cross_fade(tail, self._window(held, left, past)[0])

    def _window(self, codes: np.ndarray, left: int, past: dict) -> tuple[np.ndarray, dict]:
        """Wave of codes [T] but for the first `left`, and the new past."""
        padded = np.zeros((1, self.left + self.chunk + self.right), np.int32)
        mask = np.zeros(padded.shape, np.float32)
        start, stop = self.left - left, self.left - left + len(codes)
        padded[0, start:stop], mask[0, start:stop] = codes, 1
        wave, past = self.decode(self.params, padded, mask, past)
        hop = self.config.output_hop
        return np.asarray(wave)[0, self.left * hop : stop * hop], past


def _cross_fade(tail: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """The wave, entered from `tail`: two views of the same sound, the first fading out."""
    count = min(len(tail), len(wave))
    share = (np.arange(count, dtype=np.float32) + 0.5) / max(count, 1)
    head = tail[:count] + share * (wave[:count] - tail[:count])
    return np.concatenate([head, wave[count:]])
