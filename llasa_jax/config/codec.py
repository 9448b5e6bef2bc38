"""Settings of the codec, its discriminators and its semantic branch."""

import math
from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require
from llasa_jax.config.verifiers import RecogniserConfig


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
class SpectralConfig:
    """The small acoustic encoder: log-mel frames through the decoder's kind of backbone.

    `frames` of them, with windows of four of their hops, make one code.
    """

    mel_bins: int = 100
    transformer: TransformerConfig = TransformerConfig()
    frames: int = 2

    def __post_init__(self):
        require(min(self.mel_bins, self.frames) > 0, "codec.spectral: sizes must be positive")

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
    encoder's; the decoder may write at another `output_rate` (NeuCodec: 24 kHz of 16 kHz). Its head
    gives `istft_frames` frames a code: with few codes a second, one alone would smear 4 hops.

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
    istft_frames: int = 1
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
        positive = min(*sizes, self.istft_frames) > 0
        require(positive, "codec: rates, hop, window, groups and frames must be positive")
        one = (self.spectral is None) != (self.conv is None)
        require(one, "codec: needs one acoustic encoder, `spectral` or `conv`")
        if self.conv is not None:
            stride = math.prod(self.conv.strides)
            require(stride == self.hop, f"codec.conv.strides: multiply to {stride}, not {self.hop}")
        require(self.hop % 2 == 0, f"codec.hop: {self.hop} must be even")
        whole = self.hop * self.output_rate % self.sample_rate == 0 and self.output_hop % 2 == 0
        require(whole, f"codec.output_rate: {self.output_rate} gives no even number a hop")
        for name, frames, hop in self._frames():
            ok = hop % frames == 0 and hop // frames % 2 == 0
            require(ok, f"codec.{name}: {frames} frames of an even number of samples make no {hop}")
        parts = {"decoder": self.decoder}
        if self.spectral is not None:
            parts["spectral.transformer"] = self.spectral.transformer
        for name, part in parts.items():
            ok = part.dim % self.norm_groups == 0
            require(ok, f"codec.{name}.dim: {part.dim} over {self.norm_groups} norm groups")

    def _frames(self) -> list[tuple[str, int, int]]:
        """Settings of frames a code, with the samples that these divide."""
        found = [("istft_frames", self.istft_frames, self.output_hop)]
        if self.spectral is not None:
            found.append(("spectral.frames", self.spectral.frames, self.hop))
        return found

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
