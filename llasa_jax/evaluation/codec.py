"""How well a codec gives back what it is given."""

from collections.abc import Callable, Sequence

import numpy as np

from llasa_jax.codec.batch import BatchCodec
from llasa_jax.errors import UserError
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import word_errors
from llasa_jax.metrics.waves import stoi


def resynthesise(codec: BatchCodec, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each wave through codes and back, as long as its codes: [N // hop * hop]."""
    return codec.decode(codec.encode(waves))


def mean_stoi(
    waves: Sequence[np.ndarray], rebuilt: Sequence[np.ndarray], rate: int
) -> statistics.Interval:
    """Mean STOI over utterances, with its bootstrap interval; too short ones are left out.

    Raises:
        UserError: if all are too short.
    """
    pairs = ((a[: len(b)], b[: len(a)]) for a, b in zip(waves, rebuilt, strict=True))
    values = [value for a, b in pairs if (value := stoi(a, b, rate)) is not None]
    if not values:
        raise UserError(f"no STOI: none of {len(waves)} utterances has 0.4 s of speech; use longer")
    return statistics.mean(values)


def word_error_ratio(
    texts: Sequence[str],
    waves: Sequence[np.ndarray],
    rebuilt: Sequence[np.ndarray],
    transcribe: Callable[[Sequence[np.ndarray]], list[str]],
) -> dict[str, float | list[float]]:
    """A recogniser's word error on originals and on resynthesis, and their paired ratio."""
    heard = transcribe([*waves, *rebuilt])
    original = word_errors(texts, heard[: len(waves)])
    resynthesis = word_errors(texts, heard[len(waves) :])
    ratio = statistics.rate_quotient(
        resynthesis.errors, resynthesis.length, original.errors, original.length
    ).to_json()
    return {
        "wer_original": original.rate,
        "wer_resynthesis": resynthesis.rate,
        "wer_ratio": ratio["value"],
        "wer_interval_ratio": [ratio["low"], ratio["high"]],
        "wer_utterances": len(texts),
    }
