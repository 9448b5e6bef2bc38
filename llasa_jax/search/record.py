"""The record that every search leaves: what was drawn, how it scored, what was kept and why."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llasa_jax.search.guards import failure_rates
from llasa_jax.search.strategies import Pool, combined


def search_record(
    pool: Pool,
    weights: Mapping[str, float],
    choices: Mapping[int, int],
    *,
    strategy: str,
    seconds: float,
    seed: int,
    settings: Mapping[str, Any],
) -> dict:
    """JSON-able account of the search for one text.

    Args:
        choices: number of candidates looked at -> place of the take that was kept.
        seconds: wall time of drawing, decoding and scoring this pool.
        settings: of sampler and guards, JSON-able.

    Returns:
        A dict of plain values without NaN or infinity (those become None). `tokens` counts what
        was drawn for all candidates, END and what was `discarded` or dropped included.
    """
    totals = combined(pool.scores, weights, pool.statuses)
    candidates = [
        {
            "codes": len(take.codes),
            "stopped": take.stopped,
            "discarded": take.discarded,
            "redrawn": take.redrawn,
            "status": status,
            "log_probability": take.log_probability,
            "scores": {name: float(values[i]) for name, values in pool.scores.items()},
            "combined": float(totals[i]),
        }
        for i, (take, status) in enumerate(zip(pool.takes, pool.statuses, strict=True))
    ]
    record = {
        "text": pool.text,
        "strategy": strategy,
        "seed": seed,
        "settings": dict(settings),
        "weights": dict(weights),
        "candidates": candidates,
        "choices": {str(n): int(place) for n, place in choices.items()},
        "failures": failure_rates(pool.statuses),
        "rounds": pool.rounds,
        "tokens": pool.tokens,
        "seconds": seconds,
    }
    return _finite(record)


def _finite(value: Any) -> Any:
    """The same nesting in JSON's own types, with None where a number is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
