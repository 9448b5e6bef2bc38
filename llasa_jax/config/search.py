"""Settings of drawing and refusing takes."""

from dataclasses import dataclass

from llasa_jax.config.checks import require


@dataclass(frozen=True)
class SamplerConfig:
    """How one candidate is drawn: X-Codec2 models are sampled at 0.8 with the top 50.

    `min_p`: codes with less than this share of the most probable one's probability are cut (0:
    off). `repetition_penalty`: logits of codes that were said are divided by it (1: off).
    `ras_window`, `ras_threshold`: repetition-aware sampling (0: off): a code that makes up more
    than this share of the last so many is drawn again from all codes. `guidance`: how much larger
    what the text changes is made, by asking again with a blank text (1: off); the model must have
    learned from blank texts (`DecoderRun.blank_texts`).
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ras_window: int = 0
    ras_threshold: float = 0.1
    guidance: float = 1.0

    def __post_init__(self):
        require(self.temperature > 0, "sampler.temperature: must be positive")
        require(self.top_k >= 0, "sampler.top_k: 0 (off) or a positive number")
        require(0 < self.top_p <= 1, "sampler.top_p: in (0, 1]")
        require(0 <= self.min_p < 1, "sampler.min_p: in [0, 1)")
        require(self.repetition_penalty > 0, "sampler.repetition_penalty: must be positive")
        require(self.ras_window >= 0, "sampler.ras_window: 0 (off) or a number of codes")
        require(0 <= self.ras_threshold < 1, "sampler.ras_threshold: in [0, 1)")
        require(self.guidance >= 1, "sampler.guidance: 1 (off) or more")


@dataclass(frozen=True)
class GuardConfig:
    """What a take must satisfy; lengths in codes for a character of text.

    `min_codes`, `max_codes`: bounds on codes per character; 2 at 50 codes a second are the 25
    characters a second that nobody exceeds. `slack_codes` are added to the upper bound.
    `loop_codes`: a run of that many equal codes (or short cycles) is a loop; `silent_codes`: a run
    of that many codes that are known to be silent stops a take (0: off, both). `retries`: how
    often a take that failed is drawn again.
    """

    min_codes: float = 2.0
    max_codes: float = 8.0
    slack_codes: int = 25
    loop_codes: int = 50
    silent_codes: int = 0
    silence_db: float = -50.0
    retries: int = 2

    def __post_init__(self):
        require(min(self.min_codes, self.max_codes) > 0, "guards: rates must be positive")
        counts = (self.slack_codes, self.loop_codes, self.silent_codes, self.retries)
        require(min(counts) >= 0, "guards: counts must not be negative")


@dataclass(frozen=True)
class BeamConfig:
    """A process-reward beam: the paper's is 16 beams x 16 samples, a step of 25 codes.

    `prefix_seconds`: how much of a take the beam decides (the paper: 2 s); what follows is drawn to
    the end, `completions` times of each beam (default: `samples`), and best-of-N chooses. None: the
    beam goes to the end.
    """

    beams: int = 16
    samples: int = 16
    step_codes: int = 25
    prefix_seconds: float | None = 2.0
    completions: int | None = None

    def __post_init__(self):
        sizes = (self.beams, self.samples, self.step_codes)
        require(min(sizes) > 0, "beam: beams, samples and step_codes must be positive")
        prefix, completions = self.prefix_seconds, self.completions
        require(prefix is None or prefix > 0, "beam.prefix_seconds: positive, or none")
        fits = completions is None or 0 < completions <= self.samples
        require(fits, f"beam.completions: from 1 to the {self.samples} samples of a beam")

    @property
    def width(self) -> int:
        """Candidates at once."""
        return self.beams * self.samples
