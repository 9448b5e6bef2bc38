"""Every setting of the project: frozen dataclasses, checked when they are made.

A named run is a Python file in `configs/` with a `get_config()`; `load_config` reads it by name or
path and applies `--set path=value` overrides. An unknown key, a wrong type or a value out of range
is a `UserError` that names the setting.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llasa_jax.errors import UserError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True)
class TransformerConfig:
    """Width and depth of a bidirectional transformer stack (codec, recogniser)."""

    dim: int = 256
    ffn: int = 1024
    layers: int = 4
    heads: int = 4

    def __post_init__(self):
        sizes = (self.dim, self.ffn, self.layers, self.heads)
        require(min(sizes) > 0, "transformer: sizes must be positive")
        require(self.dim % self.heads == 0, f"transformer: dim {self.dim} over {self.heads} heads")


@dataclass(frozen=True)
class RecogniserConfig:
    """A CTC recogniser: log-mel frames in, characters out.

    `kind` names the architecture: "conv" (dilated convolutions) or "transformer".
    """

    kind: Literal["conv", "transformer"] = "conv"
    sample_rate: int = 16000
    mel_bins: int = 80
    alphabet: str = " 'abcdefghijklmnopqrstuvwxyz"
    dim: int = 192
    layers: int = 8
    heads: int = 4
    width: int = 9

    def __post_init__(self):
        ok = len(set(self.alphabet)) == len(self.alphabet) > 1
        require(ok, "recogniser.alphabet: needs at least two characters, each once")
        require(min(self.dim, self.layers, self.heads, self.width) > 0, "recogniser: sizes > 0")


@dataclass(frozen=True)
class SpectralConfig:
    """The small acoustic encoder: log-mel frames through the decoder's kind of backbone."""

    mel_bins: int = 100
    transformer: TransformerConfig = TransformerConfig()

    @property
    def dim(self) -> int:
        return self.transformer.dim


@dataclass(frozen=True)
class ConvConfig:
    """X-Codec2's acoustic encoder: strided convolutions on the wave, alias-free SnakeBeta.

    Channels double at each of the `strides`, whose product is the codec's hop.
    """

    channels: int = 48
    strides: tuple[int, ...] = (2, 2, 4, 4, 5)
    dim: int = 1024

    def __post_init__(self):
        sizes = (self.channels, self.dim, *self.strides)
        require(len(self.strides) > 0 and min(sizes) > 0, "codec.conv: sizes must be positive")


@dataclass(frozen=True)
class SemanticConfig:
    """The semantic branch: frozen features of a speech-understanding model, and an adapter.

    "wav2vec2-bert" is the first `layers` layers of that conformer, on Kaldi filter banks stacked in
    pairs; the defaults are w2v-BERT 2.0's, cut where X-Codec2 cuts it; `edge` zeros stand on both
    sides of the wave (X-Codec2 160, NeuCodec 0). "recogniser" is a CTC recogniser of this project,
    `recogniser`, before its output layer.
    """

    kind: Literal["wav2vec2-bert", "recogniser"] = "wav2vec2-bert"
    dim: int = 1024
    ffn: int = 4096
    layers: int = 16
    heads: int = 16
    mel_bins: int = 80
    conv_width: int = 31
    left: int = 64
    right: int = 8
    edge: int = 160
    recogniser: RecogniserConfig | None = None

    def __post_init__(self):
        sizes = (self.dim, self.ffn, self.layers, self.heads, self.mel_bins, self.conv_width)
        require(min(sizes) > 0, "codec.semantic: sizes must be positive")
        require(
            self.dim % self.heads == 0, f"codec.semantic: dim {self.dim} over {self.heads} heads"
        )
        if self.kind == "recogniser":
            ok = self.recogniser is not None and self.recogniser.dim == self.dim
            require(ok, "codec.semantic: kind recogniser needs `recogniser`, of the same dim")


@dataclass(frozen=True)
class CodecConfig:
    """An X-Codec2-kind codec: one FSQ codebook, one code a hop, ISTFT head.

    `levels` are the FSQ levels, one a dimension: their product is the codebook's size. The encoder
    is `spectral` or `conv`, with a `semantic` branch or none. `sample_rate` and `hop` are the
    encoder's; the decoder may write at another `output_rate` (NeuCodec: 24 kHz of 16 kHz).

    A `causal` decoder looks at no later frame and at most `window` earlier ones a layer: it can
    stream. Its norms are over each frame alone.
    """

    sample_rate: int = 16000
    hop: int = 320
    output_rate: int = 16000
    levels: tuple[int, ...] = (4,) * 8
    spectral: SpectralConfig | None = SpectralConfig()
    conv: ConvConfig | None = None
    semantic: SemanticConfig | None = None
    decoder: TransformerConfig = TransformerConfig()
    causal: bool = False
    window: int = 64
    norm_groups: int = 32
    scan_layers: bool = True
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        # Of two levels, X-Codec2's double bound would reach only one.
        require(len(self.levels) > 0 and min(self.levels) >= 3, "codec.levels: at least 3 each")
        require(self.codebook_size <= 1 << 20, "codec.levels: over 2^20 codes")
        sizes = (self.sample_rate, self.hop, self.output_rate, self.norm_groups, self.window)
        require(min(sizes) > 0, "codec: rates, hop, window and groups must be positive")
        one = (self.spectral is None) != (self.conv is None)
        require(one, "codec: needs one acoustic encoder, `spectral` or `conv`")
        if self.conv is not None:
            stride = math.prod(self.conv.strides)
            require(stride == self.hop, f"codec.conv.strides: multiply to {stride}, not {self.hop}")
        require(self.hop % 2 == 0, f"codec.hop: {self.hop} must be even")
        whole = self.hop * self.output_rate % self.sample_rate == 0 and self.output_hop % 2 == 0
        require(whole, f"codec.output_rate: {self.output_rate} gives no even number a hop")
        parts = {"decoder": self.decoder}
        if self.spectral is not None:
            parts["spectral.transformer"] = self.spectral.transformer
        for name, part in parts.items():
            ok = part.dim % self.norm_groups == 0
            require(ok, f"codec.{name}.dim: {part.dim} over {self.norm_groups} norm groups")

    @property
    def output_hop(self) -> int:
        """Samples the decoder writes a code."""
        return self.hop * self.output_rate // self.sample_rate

    @property
    def fused_dim(self) -> int:
        """Width of what is quantised: the acoustic and the semantic features side by side."""
        acoustic = self.spectral.dim if self.spectral is not None else self.conv.dim
        return acoustic + (self.semantic.dim if self.semantic is not None else 0)

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop


@dataclass(frozen=True)
class RopeScaling:
    """The llama3 rule for positions past the original context (Llama 3.1 and 3.2)."""

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama decoder over text and speech ids.

    `text_vocab` counts the text tokenizer's ids with its own special tokens; the 8 tags and the
    `codes` speech ids follow it, as in the released models (128256 + 8 + 65536 = 193800).
    """

    dim: int = 256
    ffn: int = 768
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    text_vocab: int = 128256
    codes: int = 65536
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied_embeddings: bool = True
    vocab_multiple: int = 256
    attention: Literal["reference", "splash", "cudnn"] = "reference"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_layers: bool = True

    def __post_init__(self):
        sizes = (self.dim, self.ffn, self.layers, self.heads, self.kv_heads, self.head_dim)
        sizes += (self.text_vocab, self.codes, self.vocab_multiple)
        require(min(sizes) > 0, "lm: sizes must be positive")
        ok = self.heads % self.kv_heads == 0
        require(ok, f"lm.kv_heads: {self.heads} heads do not divide by {self.kv_heads}")
        require(self.head_dim % 2 == 0, f"lm.head_dim: {self.head_dim} must be even for RoPE")

    @property
    def vocab(self) -> int:
        return self.text_vocab + 8 + self.codes

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding table: padded for the hardware, never exported."""
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple


@dataclass(frozen=True)
class SpeakerConfig:
    """A speaker encoder trained to tell the corpus's speakers apart; unit embeddings [dim]."""

    sample_rate: int = 16000
    mel_bins: int = 64
    channels: int = 128
    layers: int = 4
    embedding: int = 64


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon for the layers' matrices; warm-up, decay, gradients clipped by their norm.

    The rate rises from the share `start` of `peak` over the share `warmup` of the run, as its power
    `warmup_power`, and falls to the share `final` of `peak`: as a cosine to the run's end; linearly
    over the last `decay` of the run ("wsd"); or linearly over the `decay` that follows the warm-up,
    and stays there ("linear").
    """

    kind: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.9
    peak: float = 1e-3
    start: float = 0.0
    final: float = 0.1
    warmup: float = 0.03
    warmup_power: float = 1.0
    schedule: Literal["cosine", "wsd", "linear"] = "cosine"
    decay: float = 0.3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self):
        require(self.peak > 0, "optimizer.peak: must be positive")
        require(self.warmup_power > 0, "optimizer.warmup_power: must be positive")
        for name in ("start", "final", "warmup", "decay"):
            require(0 <= getattr(self, name) <= 1, f"optimizer.{name}: a share from 0 to 1")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh (`parallel.mesh`); one may be -1: all that are left.

    The batch is split over data and fsdp, the state over fsdp and tensor. All ones are one device.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor, self.sequence)
        ok = all(size > 0 or size == -1 for size in sizes) and sizes.count(-1) <= 1
        require(ok, "train.mesh: sizes must be positive, at most one of them -1")


@dataclass(frozen=True)
class TrainConfig:
    """How long and how: `steps` of `batch` items, logged, validated and saved at intervals.

    A step's gradient is the mean over `accumulate` parts of its batch, one after the other: as much
    less memory. `ema` is the decay of the mean of the parameters that is kept, 0 for none.
    """

    steps: int = 1000
    batch: int = 16
    accumulate: int = 1
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 20
    valid_every: int = 200
    save_every: int = 200
    ema: float = 0.0

    def __post_init__(self):
        sizes = (self.steps, self.batch, self.log_every, self.valid_every, self.save_every)
        require(min(sizes) > 0, "train: steps, batch and intervals must be positive")
        ok = self.accumulate > 0 and self.batch % self.accumulate == 0
        require(ok, f"train.accumulate: {self.accumulate} does not divide the batch {self.batch}")
        require(0 <= self.ema < 1, f"train.ema: {self.ema} is not in [0, 1)")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """X-Codec2's discriminators (`codec.discriminators`): one for each period, one for each window.

    `periods` in samples, `windows` of the STFT in samples, with hops of half a window.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (16, 64, 256, 512, 512)
    windows: tuple[int, ...] = (78, 126, 206, 334, 542, 876, 1418, 2296)
    window_channels: tuple[int, ...] = (32, 64, 128, 256, 512)

    def __post_init__(self):
        channels = (*self.period_channels, *self.window_channels)
        ok = bool(self.period_channels and self.window_channels) and min(channels) > 0
        require(ok, "gan.discriminators: channels must be positive, at least one layer each")
        sizes = (*self.periods, *self.windows)
        require(len(sizes) > 0 and min(sizes) >= 2, "gan.discriminators: sizes of at least 2")
        even = all(window % 2 == 0 for window in self.windows)
        require(even, "gan.discriminators.windows: must be even, hops are half a window")


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
    """`llasa train`: the language model and its packed rows."""

    lm: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    row: int = 512
    loss_chunk: int = 128


@dataclass(frozen=True)
class RecogniserRun:
    """Training of a CTC recogniser on waves with text."""

    recogniser: RecogniserConfig = RecogniserConfig()
    train: TrainConfig = TrainConfig()
    max_seconds: float = 8.0


@dataclass(frozen=True)
class SpeakerRun:
    """Training of the speaker encoder on waves with speaker names."""

    speaker: SpeakerConfig = SpeakerConfig()
    train: TrainConfig = TrainConfig()
    crop_seconds: float = 1.6


@dataclass(frozen=True)
class SamplerConfig:
    """How one candidate is drawn: X-Codec2 models are sampled at 0.8 with the top 50."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self):
        require(self.temperature > 0, "sampler.temperature: must be positive")
        require(self.top_k >= 0, "sampler.top_k: 0 (off) or a positive number")
        require(0 < self.top_p <= 1, "sampler.top_p: in (0, 1]")


@dataclass(frozen=True)
class GuardConfig:
    """What a take must satisfy; lengths in codes for a character of text.

    `min_codes`, `max_codes`: bounds on codes per character; 2 at 50 codes a second are the 25
    characters a second that nobody exceeds. `slack_codes` are added to the upper bound.
    `loop_codes`: a run of that many equal codes (or short cycles) is a loop.
    """

    min_codes: float = 2.0
    max_codes: float = 8.0
    slack_codes: int = 25
    loop_codes: int = 50
    silence_db: float = -50.0


def to_dict(config: Any) -> dict:
    """Plain JSON-able form; `from_dict` is its inverse."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_dict(kind: type, values: dict, where: str = "") -> Any:
    """Builds the dataclass `kind` from `values`, strictly.

    Raises:
        UserError: on an unknown key, a wrong type or a refused value, with the setting's path.
    """
    name = where or kind.__name__
    require(isinstance(values, dict), f"{name}: expected settings, got {values!r}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    given = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        hint = f"unknown setting, known here: {', '.join(known)}"
        require(key in known, f"{path}: {hint}")
        given[key] = _convert(hints[key], value, path)
    return kind(**given)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, where that is exact: 1 is a float, 1.5 is no int."""
    if isinstance(hint, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _convert(options[0], value, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path)
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        require(value in options, f"{path}: {value!r} is none of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{path}: expected a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(value, hint) and not (hint is not bool and isinstance(value, bool))
    require(exact, f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def override(config: Any, assignments: list[str]) -> Any:
    """Applies `path=value` strings, as in `--set train.steps=200`, and checks the result."""
    values = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        require(bool(equals), f"--set {assignment}: expected path=value")
        *parents, last = path.split(".")
        node = values
        for name in parents:
            ok = isinstance(node.get(name), dict)
            require(ok, f"--set {path}: no group of settings named {name!r}")
            node = node[name]
        require(last in node, f"--set {path}: unknown setting, known: {', '.join(node)}")
        try:
            node[last] = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            node[last] = text
    return from_dict(type(config), values)


def config_folder() -> Path:
    """`configs/` of the source checkout, or the copy that the wheel carries."""
    package = Path(__file__).parent
    carried = package / "_configs"
    return carried if carried.is_dir() else package.parent / "configs"


def load_config(name: str, kind: type, assignments: list[str] | None = None) -> Any:
    """The named run's configuration: `name` is a file, or a name in `configs/`.

    Raises:
        UserError: if there is none of that name, it fails, or it configures another kind of run.
    """
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        path = config_folder() / f"{Path(name).stem}.py"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in config_folder().glob("*.py")))
        raise UserError(f"config {name}: not found, give a file or one of: {names}")
    spec = importlib.util.spec_from_file_location(f"llasa_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # the file is code: anything may go wrong in it
        raise UserError(f"config {path}: {type(error).__name__}: {error}") from error
    ok = isinstance(config, kind)
    require(ok, f"config {path}: is a {type(config).__name__}, this command takes {kind.__name__}")
    return override(config, assignments or [])
