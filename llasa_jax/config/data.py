"""Settings of `llasa data prepare`, and of what a training run takes from its results."""

from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require
from llasa_jax.config.search import SamplerConfig

ExampleKind = Literal["generation", "understanding", "text"]


@dataclass(frozen=True)
class FilterConfig:
    """Which recordings are taken; the others are counted with their reason.

    Silent and clipped ones never are. `kind` and `languages`, where given, are those of the corpus.
    Characters a second are the letters and digits of the text over the trimmed wave. `score` names
    a measure of quality, which must reach `min_score`.
    """

    kind: Literal["", "recorded", "synthetic"] = ""
    languages: tuple[str, ...] = ()
    min_seconds: float = 0.3
    max_seconds: float = 20.0
    min_characters_s: float = 1.0
    max_characters_s: float = 30.0
    score: Literal["", "dnsmos"] = ""
    min_score: float = 2.8

    def __post_init__(self):
        ok = 0 < self.min_seconds <= self.max_seconds
        require(ok, "filter: min_seconds must be above 0 and at most max_seconds")
        ok = 0 <= self.min_characters_s <= self.max_characters_s
        require(ok, "filter: min_characters_s must be from 0 to max_characters_s")


@dataclass(frozen=True)
class DataRun:
    """`llasa data prepare`: recordings, texts and released tokens to packed rows.

    Attributes:
        corpora: built-in names, or folders (`data.corpora`).
        minutes, seed: of synthetic speech, for corpora that programs speak.
        language, licence: of folders that do not say.
        speeds: at which training recordings are played once more each, by resampling: other
            pitches and formants, as if there were more voices.
        tokens: folders in the layout of Llasa's released tokens.
        texts: JSON-lines files of chats, {"messages": [{"role", "content"}, ...]} a line.
        kinds: what is made of each utterance: "generation" (text to speech), "understanding"
            (speech to text), each in a folder of its own. Chats make "text".
        level: bring all waves to one loudness.
        row: positions of a row; a longer example is left out and counted.
        batch: waves that the codec encodes at once, as far as memory for 4,096 codes allows.
        item: utterances that one process encodes before its work is kept.
        group: items whose examples are packed together, into one shard.
    """

    corpora: tuple[str, ...] = ()
    minutes: float = 60.0
    seed: int = 0
    language: str = "en"
    licence: str = "the user's own"
    speeds: tuple[float, ...] = ()
    tokens: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    kinds: tuple[Literal["generation", "understanding"], ...] = ("generation",)
    filter: FilterConfig = FilterConfig()
    level: bool = True
    row: int = 2048
    batch: int = 16
    item: int = 256
    group: int = 128

    def __post_init__(self):
        require(min(self.row, self.batch, self.item, self.group) > 0, "data: sizes above 0")
        require(len(self.kinds) == len(set(self.kinds)) > 0, "data.kinds: one or both, each once")
        once = len(set(self.speeds)) == len(self.speeds)
        fit = all(0.5 <= speed <= 2 and speed != 1 for speed in self.speeds)
        require(once and fit, "data.speeds: from 0.5 to 2, each once and none of them 1")


@dataclass(frozen=True)
class SourceConfig:
    """Rows of a mixture: `weight` is their share of a batch before shares are scaled to 1.

    `folder` is one that `llasa data prepare` wrote; "" is the one that the command names.
    """

    kind: ExampleKind = "generation"
    weight: float = 1.0
    folder: str = ""

    def __post_init__(self):
        require(self.weight > 0, "sources.weight: must be above 0; leave the source out instead")


@dataclass(frozen=True)
class SelectConfig:
    """What a verifier counts in a choice: the weight of its score, and what a take must reach."""

    verifier: str = "content"
    weight: float = 1.0
    least: float | None = None

    def __post_init__(self):
        require(self.weight >= 0, "select.weight: must not be negative")


@dataclass(frozen=True)
class DistilRun:
    """`llasa data distil`: a model's own takes that verifiers prefer, as rows to train it on.

    Attributes:
        sentences: how many are spoken, at most; all voices in turn.
        candidates: takes of each.
        keep: how many of them are kept, at most: the best that no guard refused.
        select: verifiers that choose. Their weights apply to scores as they are.
        gain: by how much a kept take must exceed the median of its sentence's takes. Where all
            are alike there is nothing to learn.
        sampler: how takes are drawn; None: as the model says.
        slots: takes that are drawn at once.
        item: sentences that are spoken before they are kept, by one process.
        row: positions of a row.
    """

    sentences: int = 2000
    candidates: int = 16
    keep: int = 3
    select: tuple[SelectConfig, ...] = (SelectConfig(),)
    gain: float = 0.0
    sampler: SamplerConfig | None = None
    slots: int = 128
    item: int = 32
    row: int = 512

    def __post_init__(self):
        sizes = (self.sentences, self.candidates, self.slots, self.item, self.row)
        require(min(sizes) > 0, "distil: sizes above 0")
        require(0 < self.keep <= self.candidates, "distil.keep: from 1 to the candidates")
        names = [one.verifier for one in self.select]
        require(len(set(names)) == len(names) > 0, "distil.select: verifiers, each once")
        require(self.gain >= 0, "distil.gain: must not be negative")
