"""Text in, scored takes out: sampler, codec and verifiers put together, with no files."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llasa_jax.codec.batch import BatchCodec
from llasa_jax.config import GuardConfig
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.search.guards import OK, code_bounds, judge_codes, judge_take
from llasa_jax.search.sampler import Sampler, Take
from llasa_jax.search.strategies import Pool
from llasa_jax.verifiers.protocol import Candidates, Verifier, ensure_rate, score_all

SCORED_SECONDS = 2.56  # waves are padded to multiples of this before they are scored: few programs


class Prompt(NamedTuple):
    """What was said before, as if by the same breath: its text and its codes int [T]."""

    text: str
    codes: np.ndarray


class Engine:
    """Draws, decodes and scores takes.

    Args:
        verifiers: what scores the takes; `references` of a call gives each one its target.

    Raises:
        UserError: if a verifier hears waves of another rate than the codec's.
    """

    def __init__(
        self,
        sampler: Sampler,
        vocabulary: Vocabulary,
        codec: BatchCodec,
        verifiers: Sequence[Verifier],
        guards: GuardConfig,
    ):
        self.sampler, self.vocabulary, self.codec = sampler, vocabulary, codec
        self.verifiers, self.guards = list(verifiers), guards
        ensure_rate(self.verifiers, self.rate)

    @property
    def rate(self) -> int:
        return self.codec.config.sample_rate

    def pools(
        self,
        texts: Sequence[str],
        references: Sequence[Sequence[np.ndarray]],
        *,
        candidates: int,
        seed: int,
        prompts: Sequence[Prompt | None] | None = None,
    ) -> tuple[list[Pool], float]:
        """A pool of takes for each text, and the seconds that it took.

        Args:
            references: for each text, what each verifier compares with (`Verifier.reference`).
            prompts: the voice in which each text is spoken, if any. The wave is that of prompt and
                take decoded together, and what belongs to the prompt is cut off.
        """
        start = time.monotonic()
        bounds = [code_bounds(text, self.guards) for text in texts]
        prompts = [None] * len(texts) if prompts is None else prompts
        drawn = self.sampler(
            [
                self.vocabulary.prompt(text)
                if before is None
                else self.vocabulary.prompt(f"{before.text} {text}", before.codes)
                for text, before in zip(texts, prompts, strict=True)
            ],
            candidates=candidates,
            min_codes=[low for low, _ in bounds],
            max_codes=[high for _, high in bounds],
            seed=seed,
            retries=self.guards.retries,
            failed=lambda take: judge_codes(take, self.guards) != OK,
        )
        known = [np.zeros(0, np.int32) if one is None else one.codes for one in prompts]
        waves = iter(
            self.codec.decode(
                [
                    np.concatenate([before, take.codes])
                    for before, takes in zip(known, drawn, strict=True)
                    for take in takes
                ]
            )
        )
        pools = []
        for text, takes, targets, before in zip(texts, drawn, references, known, strict=True):
            cut = len(before) * self.codec.config.output_hop
            sounds = [next(waves)[cut:] for _ in takes]
            statuses = [
                judge_take(text, take, wave, self.rate, self.guards)
                for take, wave in zip(takes, sounds, strict=True)
            ]
            pools.append(Pool(text, takes, sounds, statuses, self._score(takes, sounds, targets)))
        return pools, time.monotonic() - start

    def _score(
        self, takes: Sequence[Take], waves: Sequence[np.ndarray], targets: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Scores of one text's takes, from one compiled call."""
        unit = round(SCORED_SECONDS * self.rate)
        size = -(-max(map(len, waves)) // unit) * unit
        padded = np.zeros((len(waves), size), np.float32)
        codes = np.zeros((len(waves), size // self.codec.config.hop), np.int32)
        for row, (take, wave) in enumerate(zip(takes, waves, strict=True)):
            padded[row, : len(wave)] = wave
            codes[row, : len(take.codes)] = take.codes
        lengths = np.array([len(wave) for wave in waves], np.int32)
        scores = score_all(self.verifiers, Candidates(codes, padded, lengths), targets)
        return {name: np.asarray(values) for name, values in scores.items()}
