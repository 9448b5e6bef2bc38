"""Settings of the models that listen."""

from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require


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
class SpeakerConfig:
    """A speaker encoder trained to tell the corpus's speakers apart; unit embeddings [dim]."""

    sample_rate: int = 16000
    mel_bins: int = 64
    channels: int = 128
    layers: int = 4
    embedding: int = 64


Compute = Literal["float32", "bfloat16"]


def _require_heads(name: str, dim: int, heads: int, *sizes: int) -> None:
    require(min(dim, heads, *sizes) > 0, f"{name}: sizes must be positive")
    require(dim % heads == 0, f"{name}.heads: {heads} do not divide dim {dim}")


@dataclass(frozen=True)
class WhisperConfig:
    """Whisper's shapes (Radford et al. 2022, table 1); the defaults are those of tiny.

    `frames` are heard at once, 50 a second; `positions` is the longest transcript with its prefix.
    """

    mel_bins: int = 80
    dim: int = 384
    ffn: int = 1536
    heads: int = 6
    encoder_layers: int = 4
    decoder_layers: int = 4
    vocab: int = 51865
    frames: int = 1500
    positions: int = 448
    compute_dtype: Compute = "float32"

    def __post_init__(self):
        layers = (self.encoder_layers, self.decoder_layers)
        sizes = (self.mel_bins, self.ffn, self.vocab, self.frames, self.positions, *layers)
        _require_heads("whisper", self.dim, self.heads, *sizes)
