"""The tempo of speech: faster or slower at the same pitch."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from llasa_jax.errors import UserError

SLOWEST, FASTEST = 0.25, 4.0
STEP = 2.0  # the fastest, and inverted the slowest, that FFmpeg's `atempo` does well in one piece


def stretched(waves: Iterable[np.ndarray], rate: int, speed: float) -> Iterator[np.ndarray]:
    """Waves float32 [samples] as they come, spoken `speed` times as fast at the same pitch.

    By FFmpeg's `atempo`: overlapped pieces of the wave itself, placed where they fit best.

    Raises:
        UserError: if the speed is not in 0.25 to 4.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise UserError(f"speed {speed}: give from {SLOWEST} to {FASTEST}")
    if speed == 1:
        yield from waves
        return
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(sample_rate=rate, format="flt", layout="mono")]
    while speed != 1:
        once = min(max(speed, 1 / STEP), STEP)
        nodes.append(graph.add("atempo", f"{once:.6f}"))
        speed /= once
    nodes += [graph.add("aformat", "sample_fmts=flt:channel_layouts=mono")]
    nodes += [graph.add("abuffersink")]
    graph.link_nodes(*nodes).configure()
    samples = 0
    for wave in waves:
        frame = av.AudioFrame.from_ndarray(
            np.asarray(wave, np.float32)[None], format="flt", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, samples, Fraction(1, rate)
        samples += len(wave)
        graph.push(frame)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: av.filter.Graph) -> Iterator[np.ndarray]:
    while True:
        try:
            yield graph.pull().to_ndarray()[0]
        except (av.BlockingIOError, av.EOFError):
            return
