"""The waves of a text's pieces as one without clicks, and one wave in stretches to be heard."""

from collections.abc import Sequence

import numpy as np

FADE_SECONDS = 0.005
LONGEST, SHORTEST = 8.0, 4.0  # seconds of a stretch
QUIET_SECONDS = 0.1  # that a cut lies in the middle of


def join(
    waves: Sequence[np.ndarray], pauses: Sequence[float], rate: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """One wave float32 [samples] of waves float32 [samples] with silence between them.

    Each fades in and out over 5 ms, so that none begins or ends with a click.

    Args:
        pauses: seconds after each wave but the last.

    Returns:
        The wave, and the samples at which each part begins and ends.
    """
    fade = np.sin(np.linspace(0, np.pi / 2, max(1, round(FADE_SECONDS * rate)))) ** 2
    parts, spans, end = [], [], 0
    for wave, pause in zip(waves, [*pauses, 0.0][: len(waves)], strict=True):
        part = np.array(wave, np.float32)
        size = min(len(fade), len(part) // 2)
        part[:size] *= fade[:size]
        part[len(part) - size :] *= fade[:size][::-1]
        gap = np.zeros(round(pause * rate), np.float32)
        spans.append((end, end + len(part)))
        parts += [part, gap]
        end += len(part) + len(gap)
    return np.concatenate(parts or [np.zeros(0, np.float32)]), spans


def stretches(wave: np.ndarray, rate: int) -> list[tuple[int, int]]:
    """Where to cut a wave float32 [samples] into stretches of 4 to 8 s: where it is quietest.

    Returns:
        First and last sample of each; together they are the wave. What follows the last cut may be
        shorter.
    """
    if len(wave) <= LONGEST * rate:
        return [(0, len(wave))]
    hop = rate // 100
    frames = len(wave) // hop
    power = np.square(wave[: frames * hop], dtype=np.float64).reshape(frames, hop).mean(1)
    width = round(QUIET_SECONDS * rate / hop)
    around = np.convolve(power, np.ones(width), "same")
    cuts = [0]
    while len(wave) - cuts[-1] > LONGEST * rate:
        first = (cuts[-1] + round(SHORTEST * rate)) // hop
        last = (cuts[-1] + round(LONGEST * rate)) // hop
        cuts.append((first + int(np.argmin(around[first:last]))) * hop + hop // 2)
    return list(zip(cuts, [*cuts[1:], len(wave)], strict=True))
