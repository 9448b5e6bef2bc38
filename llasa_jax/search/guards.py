"""What a take must satisfy: every take ends as "ok" or as a named failure.

runaway     it was cut at its length bound and never ended by itself
loop        it repeats one code, or a short cycle of codes, for too long
silence     no part of it can be heard
early_stop  what can be heard is far too short for its text

A take that fails is drawn again with other randomness, `GuardConfig.retries` times.
"""

import math
from collections.abc import Sequence

import numpy as np

from llasa_jax.config import GuardConfig
from llasa_jax.metrics.statistics import upper_bound
from llasa_jax.metrics.waves import FRAME_SECONDS, frame_levels_db
from llasa_jax.search.take import (
    EARLY_STOP,
    FAILURES,
    LONGEST_CYCLE,
    LOOP,
    OK,
    RUNAWAY,
    SILENCE,
    Take,
)


def code_bounds(text: str, config: GuardConfig) -> tuple[int, int]:
    """Least and greatest number of codes for a text: its characters times the rates, and slack."""
    characters = len(text.strip())
    least = math.floor(characters * config.min_codes)
    greatest = math.ceil(characters * config.max_codes) + config.slack_codes
    return max(1, least), max(1, greatest)


def longest_loop(codes: np.ndarray) -> int:
    """Length of the longest stretch that repeats with a period of 1 to LONGEST_CYCLE codes.

    A stretch counts from its first period on: [1, 2, 3, 3, 3] has 3, and no code twice gives 0.
    """
    longest = 0
    for period in range(1, min(LONGEST_CYCLE, len(codes) - 1) + 1):
        differs = np.flatnonzero(codes[period:] != codes[:-period])
        edges = np.concatenate([[-1], differs, [len(codes) - period]])
        run = int(np.diff(edges).max()) - 1
        longest = max(longest, run + period if run else 0)
    return longest


def judge_codes(take: Take, config: GuardConfig) -> str:
    """ "ok", "runaway", "loop" or "silence": what can be said before decoding."""
    if take.doomed:
        return take.doomed
    if config.loop_codes and longest_loop(take.codes) >= config.loop_codes:
        return LOOP
    return OK if take.stopped else RUNAWAY


def judge_take(text: str, take: Take, wave: np.ndarray, rate: int, config: GuardConfig) -> str:
    """ "ok" or the name of the first failure found, of a take and its wave [samples].

    The time from the first to the last 20 ms above `silence_db` must hold `min_codes` a character.
    The sampler keeps bounds on codes, so a take is only too short where silence fills it up.
    """
    status = judge_codes(take, config)
    heard = np.flatnonzero(frame_levels_db(wave, rate) > config.silence_db)
    if not len(heard):
        return SILENCE
    if status != OK:
        return status
    seconds = (heard[-1] - heard[0] + 1) * FRAME_SECONDS
    codes_a_second = len(take.codes) * rate / len(wave)
    least = len(text.strip()) * config.min_codes / codes_a_second
    return EARLY_STOP if seconds < least else OK


def failure_rates(statuses: Sequence[str]) -> dict:
    """How often each failure occurs among these, and what its rate is under (95 %), JSON-able."""
    count = len(statuses)
    found = {name: sum(status == name for status in statuses) for name in FAILURES}
    found["any"] = sum(found.values())
    return {"of": count} | {
        name: {"count": times, "under": upper_bound(times, count)} for name, times in found.items()
    }
