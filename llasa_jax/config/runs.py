"""What a file in `configs/` gives: a model, how it is trained, and its data."""

from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require
from llasa_jax.config.codec import CodecConfig, DiscriminatorConfig
from llasa_jax.config.data import SelectConfig, SourceConfig
from llasa_jax.config.lm import DecoderConfig, GuideConfig
from llasa_jax.config.training import OptimizerConfig, TrainConfig
from llasa_jax.config.verifiers import RecogniserConfig, SpeakerConfig


@dataclass(frozen=True)
class GanConfig:
    """Adversarial training: discriminators, their optimizer, their weights in the codec's loss.

    They join in after the share `start` of the run, and their learning rate spans what is left.
    """

    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    start: float = 0.0
    adversarial_weight: float = 1.0
    feature_weight: float = 1.0

    def __post_init__(self):
        require(0 <= self.start < 1, "gan.start: a share of the run, below 1")


@dataclass(frozen=True)
class CodecRun:
    """`llasa codec train`: the codec, its crops and its losses.

    Weights are those of the losses in `codec.losses` and of `codec.loudness`, which imitates what
    PESQ measures; a loss of weight 0 costs nothing.
    `semantic_weight` and `perceptual_weight` only matter to a codec with a semantic branch, whose
    frozen model comes from the model folder `semantic_model`.

    `recorded_share` of the crops are recorded speech, the rest synthetic; within them, a language
    is drawn by its seconds to the power `language_power` (0: all alike). Each crop is played at a
    speed drawn from 1 / `speed` to `speed`.
    """

    codec: CodecConfig = CodecConfig()
    train: TrainConfig = TrainConfig()
    crop_seconds: float = 2.0
    recorded_share: float = 0.4
    language_power: float = 0.0
    speed: float = 1.0
    mel_weight: float = 1.0
    spread_weight: float = 1.0
    semantic_weight: float = 5.0
    perceptual_weight: float = 0.0
    loudness_weight: float = 0.0
    mel_floor: float = 1e-5
    semantic_model: str = ""
    gan: GanConfig | None = None

    def __post_init__(self):
        samples, hop = round(self.crop_seconds * self.codec.sample_rate), self.codec.hop
        whole = samples > 0 and samples % hop == 0
        require(whole, f"crop_seconds: {self.crop_seconds} s is no whole number of {hop} samples")
        require(0 <= self.recorded_share <= 1, "recorded_share: a share from 0 to 1")
        require(0 <= self.language_power <= 1, "language_power: from 0 to 1")
        require(1 <= self.speed <= 2, "speed: from 1 to 2")
        ok = self.perceptual_weight == 0 or self.codec.semantic is not None
        require(ok, "perceptual_weight: needs codec.semantic, whose model's features it compares")
        ok = self.perceptual_weight == 0 or self.codec.output_rate == self.codec.sample_rate
        require(ok, "perceptual_weight: needs codec.output_rate to be codec.sample_rate")


@dataclass(frozen=True)
class DecoderRun:
    """`llasa train`: the language model and its packed rows of `row` ids, mixed of the `sources`.

    The loss (`lm.loss.chunked_cross_entropy`) takes `loss_chunk` positions of a row at a time; the
    head's gradient adds up over them in `loss_accumulate`, and `loss_neighbours` devices along fsdp
    share the vocabulary. `z_loss` is the weight of the squared log of softmax's denominator.

    `new_rows` are what the tags and codes begin with that a text Llama (`--init`) does not have:
    normal numbers of deviation 0.02, or the mean of its rows. `guide` teaches a head where in the
    text the speech is; None leaves that to itself. `blank_texts` is the share of
    examples that are learned with their text blank, for `SamplerConfig.guidance`.
    """

    lm: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    row: int = 512
    loss_chunk: int = 128
    loss_accumulate: Literal["float32", "bfloat16"] = "float32"
    loss_neighbours: int = 1
    z_loss: float = 0.0
    new_rows: Literal["normal", "mean"] = "normal"
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    guide: GuideConfig | None = None
    blank_texts: float = 0.0

    def __post_init__(self):
        require(0 <= self.blank_texts < 1, "blank_texts: a share below 1")
        require(len(self.sources) > 0, "sources: name at least one")
        sizes = (self.row, self.loss_chunk, self.loss_neighbours)
        require(min(sizes) > 0, "row, loss_chunk, loss_neighbours: must be positive")
        require(self.z_loss >= 0, "z_loss: must not be negative")
        if self.guide is not None:
            ok = max(self.guide.layers) < self.lm.layers and self.guide.head < self.lm.heads
            require(ok, f"guide: lm has {self.lm.layers} layers of {self.lm.heads} heads")


@dataclass(frozen=True)
class GrpoRun:
    """`llasa train`: the language model learns from its own takes (`training.grpo`).

    `sentences` at most are spoken, by all voices in turn, in groups of `group` takes. A rollout is
    as many takes as `updates` steps of `train.batch` learn from. The policy is that of
    `temperature`; a step leaves it unchanged where it is `clip` away from the one that drew. `kl`
    is the weight of the divergence from the model that the run began with; 0: none is computed.

    The reward is the weighted sum of what `select`'s verifiers say, at least `least` of each; a
    take that a guard refused gets all the least.

    `row` ids hold a take and its prompt, `codes` of a take are learned at most, and the loss takes
    `loss_chunk` of them at a time.
    """

    lm: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    sentences: int = 20000
    group: int = 8
    updates: int = 1
    temperature: float = 1.0
    clip: float = 0.2
    kl: float = 0.0
    select: tuple[SelectConfig, ...] = (SelectConfig(least=-4.0),)
    row: int = 512
    codes: int = 256
    loss_chunk: int = 32

    def __post_init__(self):
        sizes = (self.sentences, self.updates, self.row, self.codes, self.loss_chunk)
        require(min(sizes) > 0 and self.group > 1, "grpo: sizes above 0, a group of at least 2")
        takes = self.train.batch * self.updates
        ok = takes % self.group == 0
        require(ok, f"group: {takes} takes of a rollout are no whole number of {self.group}")
        require(self.temperature > 0, "temperature: must be positive")
        require(0 < self.clip < 1 and self.kl >= 0, "clip: in (0, 1); kl: not negative")
        ok = bool(self.select) and all(one.least is not None for one in self.select)
        require(ok, "select: verifiers, each with the `least` that a failed take gets")
        require(self.lm.lora is None, "lm.lora: is for likelihood; GRPO trains whole models")

    @property
    def prompts(self) -> int:
        """Sentences of a rollout."""
        return self.train.batch * self.updates // self.group


@dataclass(frozen=True)
class RecogniserRun:
    """Training of a CTC recogniser on waves with text.

    `part` (k, n) is every n-th of the training waves from the k-th on: one that chooses takes and
    one that judges them learn from different halves. Each wave is played at a speed drawn from
    1 / `speed` to `speed`.
    """

    recogniser: RecogniserConfig = RecogniserConfig()
    train: TrainConfig = TrainConfig()
    max_seconds: float = 8.0
    part: tuple[int, int] = (0, 1)
    speed: float = 1.0

    def __post_init__(self):
        ok = len(self.part) == 2 and 0 <= self.part[0] < self.part[1]
        require(ok, "part: (k, n) with k from 0 to n - 1")
        require(1 <= self.speed <= 2, "speed: from 1 to 2")


@dataclass(frozen=True)
class SpeakerRun:
    """Training of the speaker encoder on waves with speaker names."""

    speaker: SpeakerConfig = SpeakerConfig()
    train: TrainConfig = TrainConfig()
    crop_seconds: float = 1.6
