"""Judges of other runtimes, outside jit: they report on candidates and never select them here.

A judge has a `name` and turns waves into texts; `ensure_judge_differs` in `protocol` refuses one
that took part in the selection.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import numpy as np

from llasa_jax.errors import UserError

RATE = 16000
WORKERS = 2
# Each utterance is judged on its own: cepstral means over the whole of it, none carried over.
SETTINGS = {"samprate": RATE, "cmn": "batch", "loglevel": "FATAL"}


class Judge(Protocol):
    """Hears what is said."""

    name: str

    def transcribe(
        self, waves: Sequence[np.ndarray], on_wave: Callable[[], None] = lambda: None
    ) -> list[str]:
        """The text heard in each wave, float32 [samples] at 16 kHz.

        Args:
            on_wave: called as each wave is done.
        """
        ...


class Pocketsphinx:
    """CMU Pocketsphinx 5 with the English model in its wheel, in `WORKERS` processes.

    Raises:
        UserError: if the package is not installed.
    """

    name = "pocketsphinx"

    def __init__(self):
        if importlib.util.find_spec("pocketsphinx") is None:
            raise UserError("judge pocketsphinx: not installed; run: pip install pocketsphinx")

    def transcribe(
        self, waves: Sequence[np.ndarray], on_wave: Callable[[], None] = lambda: None
    ) -> list[str]:
        """The words heard in each wave, float32 [samples] at 16 kHz; the same every time.

        Args:
            on_wave: called as each wave is done.

        Raises:
            UserError: if a worker process dies.
        """
        texts = []
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads hangs
        try:
            with ProcessPoolExecutor(WORKERS, context, _start_worker) as pool:
                for text in pool.map(_hear, map(to_pcm, waves), chunksize=4):
                    texts.append(text)
                    on_wave()
        except BrokenProcessPool as error:
            raise UserError("judge pocketsphinx: a worker died; free some memory") from error
        return texts


def to_pcm(wave: np.ndarray) -> bytes:
    """16-bit little-endian samples of a wave, float32 [samples]; clipped at full scale."""
    return (np.clip(wave, -1, 1) * 32767).round().astype("<i2").tobytes()


_decoder: Any = None  # of this worker process


def _start_worker() -> None:
    global _decoder
    from pocketsphinx import Decoder

    _decoder = Decoder(**SETTINGS)


def _hear(pcm: bytes) -> str:
    if not pcm:
        return ""
    _decoder.start_utt()
    _decoder.process_raw(pcm, full_utt=True)
    _decoder.end_utt()
    hypothesis = _decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""
