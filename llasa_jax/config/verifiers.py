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
