"""Judges of other runtimes, outside jit.

A `Judge` has a `name` and turns waves into texts. A `Scorer` gives waves scores as a verifier does,
but one call after another, on the host: `WordScorer` makes one of any judge, `Dnsmos` is one.
`ensure_judge_differs` in `protocol` refuses a judge that took part in the selection.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.metrics.dnsmos import dnsmos
from llasa_jax.metrics.text import character_errors, word_errors

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


class Scorer(Protocol):
    """Scores waves outside jit."""

    name: str

    def scores(self, waves: Sequence[np.ndarray], text: str) -> np.ndarray:
        """Float32 [N], higher is better, of waves float32 [samples] at 16 kHz that say `text`."""
        ...


@dataclass(frozen=True)
class WordScorer:
    """Minus the word (or character) error rate of what a judge hears.

    Attributes:
        judge: who listens.
        characters: counts characters, as is done for Chinese.
    """

    judge: Judge
    characters: bool = False

    @property
    def name(self) -> str:
        return self.judge.name

    def scores(self, waves: Sequence[np.ndarray], text: str) -> np.ndarray:
        """Minus errors over the reference's words, float32 [N].

        Raises:
            UserError: if the text has no word.
        """
        count = character_errors if self.characters else word_errors
        found = count([text] * len(waves), self.judge.transcribe(waves))
        if not found.length.all():
            raise UserError(f"judge {self.name}: text {text!r} holds no word to be heard")
        return -(found.errors / found.length).astype(np.float32)


class Dnsmos:
    """DNSMOS P.835's overall quality, from 1 to 5, by speechmos; the text plays no part.

    Raises:
        UserError: if the packages are not installed.
    """

    name = "dnsmos"

    def __init__(self):
        for package in ("speechmos", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"judge dnsmos: {package} is not installed; run: pip install 'llasa-jax[eval]'"
                )

    def scores(self, waves: Sequence[np.ndarray], text: str = "") -> np.ndarray:
        """Overall quality float32 [N] of waves at 16 kHz; NaN of a wave without samples."""
        found = [dnsmos(wave, RATE) for wave in waves]
        return np.array([np.nan if one is None else one for one in found], np.float32)


class Utmos:
    """UTMOS22's strong learner (Saeki et al. 2022), naturalness from 1 to 5, by torch.hub.

    torch.hub fetches code and weights of `REPOSITORY` at the first use, and keeps them.

    Raises:
        UserError: if torch is not installed, or the model cannot be had.
    """

    name = "utmos"
    REPOSITORY, MODEL = "tarepan/SpeechMOS:v1.2.0", "utmos22_strong"

    def __init__(self):
        if importlib.util.find_spec("torch") is None:
            raise UserError("judge utmos: torch is not installed; run: pip install torch")
        import torch

        self._torch = torch
        try:
            self._model = torch.hub.load(self.REPOSITORY, self.MODEL, trust_repo=True).eval()
        except Exception as error:  # of the network, and of code that is not ours
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"judge utmos: {self.REPOSITORY} cannot be loaded ({reason}); fetch it by torch.hub"
            ) from error

    def scores(self, waves: Sequence[np.ndarray], text: str = "") -> np.ndarray:
        """Naturalness float32 [N] of waves at 16 kHz; NaN of a wave without samples."""
        found = []
        with self._torch.inference_mode():
            for wave in waves:
                sound = self._torch.from_numpy(np.asarray(wave, np.float32)[None])
                found.append(float(self._model(sound, RATE)[0]) if len(wave) else np.nan)
        return np.array(found, np.float32)


class Paraformer:
    """FunASR's Paraformer for Mandarin, which seed-tts-eval's Chinese sets are judged with.

    FunASR fetches the weights at the first use. Their licence is its own (docs/verifiers.md).

    Args:
        model: a name that FunASR knows, or a folder.

    Raises:
        UserError: if FunASR is not installed or cannot load the model.
    """

    name = "paraformer"

    def __init__(self, model: str = "paraformer-zh"):
        if importlib.util.find_spec("funasr") is None:
            raise UserError("judge paraformer: FunASR is not installed; run: pip install funasr")
        from funasr import AutoModel

        try:
            self._model = AutoModel(model=model, disable_update=True, disable_pbar=True)
        except Exception as error:  # of any of its parts, and of the network
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"judge paraformer: {model} cannot be loaded ({reason}); give a folder with it"
            ) from error

    def transcribe(
        self, waves: Sequence[np.ndarray], on_wave: Callable[[], None] = lambda: None
    ) -> list[str]:
        """The text heard in each wave, float32 [samples] at 16 kHz.

        Args:
            on_wave: called as each wave is done.
        """
        texts = []
        for wave in waves:
            heard = self._model.generate(input=wave, fs=RATE) if len(wave) else []
            texts.append(heard[0]["text"] if heard else "")
            on_wave()
        return texts


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
