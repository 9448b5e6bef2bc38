"""Folders' worth of waves and codes through the codec, in few padded shapes and bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from llasa_jax import nn
from llasa_jax.codec.lengths import Length, code_count, lost_frames
from llasa_jax.codec.model import Codec
from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.config import CodecConfig
from llasa_jax.errors import UserError
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh

FRAMES = 64  # lengths are padded to multiples of this many frames: few programs are compiled
LONGEST = 1536  # frames that go through the codec at once: attention's memory is their square
CONTEXT = 128  # frames that a part of something longer sees on each side
ROWS = 4096  # frames of a device's part of a batch, at most


class Window(NamedTuple):
    """Part of item `item`: of the frames [start, stop), those of [first, last) are kept."""

    item: int
    start: int
    stop: int
    first: int
    last: int


@partial(jax.jit, static_argnums=0)
def _encode(model: nnx.GraphDef, params: dict, wave: jax.Array, mask: jax.Array) -> jax.Array:
    return nn.merge(model, params).encode(wave, mask)


@partial(jax.jit, static_argnums=0)
def _decode(model: nnx.GraphDef, params: dict, codes: jax.Array, mask: jax.Array) -> jax.Array:
    return nn.merge(model, params).decode(codes, mask)


class BatchCodec:
    """Encodes and decodes lists of any lengths; each item comes out as it would alone.

    Batches are spread over all devices of this process, `batch` rows or less on each.

    What is longer than `LONGEST` frames (31 s at 50 a second) is encoded in overlapping windows,
    so that an hour fits into memory: filter banks and norms are then those of each window. It is
    decoded in the chunks of a `StreamDecoder`.
    """

    def __init__(self, config: CodecConfig, params: dict, batch: int = 16):
        graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
        self.config, self.params, self.batch = config, params, batch
        devices = jax.local_devices()
        self._mesh = make_mesh(data=len(devices), fsdp=1, devices=devices)
        self._model = nn.for_inference(graphdef, params, NamedSharding(self._mesh, PartitionSpec()))

    def encode(
        self,
        waves: Sequence[np.ndarray],
        on_batch: Callable[[int], None] = lambda count: None,
        length: Length = "training",
    ) -> list[np.ndarray]:
        """Codes int32 [code_count(N)] of each wave float32 [N] at the codec's rate.

        Args:
            on_batch: called with the number of waves just done.
            length: how many codes N samples have (`codec.lengths`).

        Raises:
            UserError: if a wave has no code: it is empty, or shorter than one hop.
        """
        hop, lost = self.config.hop, lost_frames(self.config)
        sizes = [code_count(self.config, len(wave), length) for wave in waves]
        if any(size == 0 or len(wave) == 0 for size, wave in zip(sizes, waves, strict=True)):
            raise UserError(f"encode: a wave is shorter than one frame of {hop} samples; leave it")
        codes = [np.zeros(size, np.int32) for size in sizes]
        for windows, rows, frames in self._buckets(sizes):
            wave = np.zeros((rows, (frames + lost) * hop), np.float32)
            mask = np.zeros((len(wave), frames + lost), np.float32)
            for row, (i, start, stop, _, _) in enumerate(windows):
                end = len(waves[i]) if length != "training" else len(waves[i]) // hop * hop
                piece = waves[i][start * hop : min((stop + lost) * hop, end)]
                wave[row, : len(piece)] = piece
                mask[row, : stop - start + lost] = 1
            found = self._run(_encode, wave, mask)
            for row, (i, start, _, first, last) in enumerate(windows):
                codes[i][first:last] = found[row, first - start : last - start]
            on_batch(sum(window.last == sizes[window.item] for window in windows))
        return codes

    def decode(
        self, codes: Sequence[np.ndarray], on_batch: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Wave float32 [T * output_hop] of each code sequence int [T].

        Raises:
            UserError: if a sequence is empty or holds a code outside the codebook.
        """
        size, hop = self.config.codebook_size, self.config.output_hop
        for sequence in codes:
            if len(sequence) == 0 or np.min(sequence) < 0 or np.max(sequence) >= size:
                raise UserError(f"decode: needs at least one code, each in 0..{size - 1}")
        waves: list[np.ndarray] = [np.zeros(0, np.float32)] * len(codes)
        short = [i for i, sequence in enumerate(codes) if len(sequence) <= LONGEST]
        for windows, rows, frames in self._buckets([len(codes[i]) for i in short]):
            padded = np.zeros((rows, frames), np.int32)
            mask = np.zeros(padded.shape, np.float32)
            for row, window in enumerate(windows):
                padded[row, : window.stop] = codes[short[window.item]]
                mask[row, : window.stop] = 1
            found = self._run(_decode, padded, mask)
            for row, window in enumerate(windows):
                waves[short[window.item]] = found[row, : window.stop * hop]
            on_batch(len(windows))
        for i in sorted(set(range(len(codes))) - set(short)):
            waves[i] = np.concatenate(list(self._long([codes[i]])))
            on_batch(1)
        return waves

    def _run(self, program: Callable, *arrays: np.ndarray) -> np.ndarray:
        """A program's result for arrays of which each device gets its own rows."""
        rows = NamedSharding(self._mesh, Rules().spec(("batch",)))
        with on_mesh(self._mesh):
            return np.asarray(program(*self._model, *jax.device_put(arrays, rows)))

    @cached_property
    def _long(self) -> StreamDecoder:
        return StreamDecoder(self.config, self.params, chunk=LONGEST - 2 * CONTEXT)

    def _buckets(self, sizes: Sequence[int]) -> Iterator[tuple[list[Window], int, int]]:
        """Batches of windows of similar size, each with its padded numbers of rows and frames."""
        windows = [window for item, size in enumerate(sizes) for window in cut(item, size)]
        windows.sort(key=lambda window: window.start - window.stop)  # the longest first
        # Rows of a device: where there are few a power of two, so that few programs are compiled.
        share = max(1, -(-len(windows) // self._mesh.size))
        most = min(self.batch, 1 << (share - 1).bit_length())
        while windows:
            frames = _padded(windows[0].stop - windows[0].start)
            rows = max(1, min(most, ROWS // frames)) * self._mesh.size
            yield windows[:rows], rows, frames
            windows = windows[rows:]


def _padded(frames: int) -> int:
    """The next multiple of `FRAMES`, or of coarser steps where that wastes under a quarter."""
    step = max(FRAMES, (1 << frames.bit_length()) >> 3)
    return -(-frames // step) * step


def cut(item: int, frames: int) -> Iterator[Window]:
    """One window of an item of at most `LONGEST` frames, else overlapping ones."""
    core = frames if frames <= LONGEST else LONGEST - 2 * CONTEXT
    for first in range(0, frames, core):
        last = min(first + core, frames)
        yield Window(item, max(0, first - CONTEXT), min(frames, last + CONTEXT), first, last)
