"""How a voice searches: which takes it draws for a text, and which one it keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llasa_jax.config import BeamConfig
from llasa_jax.errors import UserError
from llasa_jax.search.beam import beam_pools
from llasa_jax.search.strategies import Pool, best_of, first_accepted

if TYPE_CHECKING:
    from llasa_jax.recipes.voice import Voice

STRATEGIES = ("best-of", "sequential", "beam", "partial")
MAX_CANDIDATES = 256


@dataclass(frozen=True)
class Search:
    """One way to search.

    Attributes:
        candidates: takes to choose from; of a beam the samples of each.
        beams: how many; None: as many as the samples.
        select: weights of the verifiers that choose among ended takes.
        lead: those of the verifiers that lead a beam.
        accept: scores at which "sequential" stops, by verifier.

    Raises:
        UserError: if a strategy is unknown, or a number out of bounds.
    """

    strategy: str = "best-of"
    candidates: int = 4
    beams: int | None = None
    step_codes: int = 25
    prefix_seconds: float = 2.0
    select: Mapping[str, float] = field(default_factory=lambda: {"content": 1.0, "speaker": 1.0})
    lead: Mapping[str, float] = field(default_factory=lambda: {"speaker": 1.0})
    accept: Mapping[str, float] = field(default_factory=lambda: {"content": -0.5})

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise UserError(f"--strategy {self.strategy}: one of {', '.join(STRATEGIES)}")
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise UserError(f"--candidates {self.candidates}: give from 1 to {MAX_CANDIDATES}")
        if not self.select or (self.by_steps and not self.lead):
            raise UserError("search: name a verifier that chooses, as content=1")

    @property
    def by_steps(self) -> bool:
        return self.strategy in ("beam", "partial")

    @property
    def beam(self) -> BeamConfig:
        prefix = self.prefix_seconds if self.strategy == "partial" else None
        return BeamConfig(self.beams or self.candidates, self.candidates, self.step_codes, prefix)

    @property
    def verifiers(self) -> list[str]:
        """Names of all verifiers that take part in the choice."""
        used = [self.select] + [self.lead] * self.by_steps
        used += [self.accept] * (self.strategy == "sequential")
        return list(dict.fromkeys(name for weights in used for name in weights))

    @property
    def width(self) -> int:
        """Candidates of a text that are drawn at once."""
        return self.beam.width if self.by_steps else self.candidates

    def draw(
        self, voice: "Voice", texts: Sequence[str], speakers: Sequence[str], seed: int
    ) -> tuple[list[Pool], float]:
        """A pool of takes for each text in the voice of each speaker, and the seconds it took.

        Raises:
            UserError: if a text or a speaker cannot be spoken, or a beam exceeds the slots.
        """
        references, prompts = voice.arguments(texts, speakers)
        given = {"references": references, "prompts": prompts, "seed": seed}
        if self.by_steps:
            return beam_pools(voice.engine, texts, config=self.beam, weights=self.lead, **given)
        if self.strategy == "sequential":
            return voice.engine.sequential(
                texts, candidates=self.candidates, thresholds=self.accept, **given
            )
        return voice.engine.pools(texts, candidates=self.candidates, **given)

    def keep(self, pool: Pool) -> int:
        """The place of the take that is kept."""
        if self.strategy == "sequential":
            place = first_accepted(pool, self.accept)
            if place is not None:
                return place
        return best_of(pool, self.select)
