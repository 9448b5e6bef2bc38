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


@dataclass(frozen=True)
class SpeechConfig:
    """What HuBERT, WavLM and emotion2vec have in common; the defaults are those of "large".

    `channels` are those of the seven convolutions over the wave; `position_width` and
    `position_groups` those of the convolutions that tell positions apart.
    """

    channels: int = 512
    conv_bias: bool = False
    dim: int = 1024
    ffn: int = 4096
    heads: int = 16
    layers: int = 24
    position_width: int = 128
    position_groups: int = 16
    compute_dtype: Compute = "float32"

    def __post_init__(self):
        sizes = (self.channels, self.ffn, self.layers, self.position_width, self.position_groups)
        _require_heads("speech model", self.dim, self.heads, *sizes)
        ok = self.dim % self.position_groups == 0
        require(ok, "speech model.position_groups: must divide dim")


@dataclass(frozen=True)
class HubertConfig(SpeechConfig):
    """HuBERT with a CTC output (Hsu et al. 2021): `outputs[i]` is what class i stands for.

    The first is the blank; of the others, those that are no single character are never heard.
    """

    conv_bias: bool = True
    outputs: tuple[str, ...] = (
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        " ",
        *"etaonihsrdlumwcfgypbvk'xjqz",
    )

    def __post_init__(self):
        super().__post_init__()
        letters = [output for output in self.outputs[1:] if len(output) == 1]
        ok = len(set(letters)) == len(letters) > 1
        require(ok, "hubert.outputs: needs a blank and at least two characters, each once")


@dataclass(frozen=True)
class WavlmConfig(SpeechConfig):
    """WavLM-large with ECAPA-TDNN (Chen et al. 2022; Desplanques et al. 2020), as seed-tts-eval.

    `buckets` hold the distances of frames up to `farthest`. Of the speaker encoder: channels of
    its blocks, of what is pooled and of its attention, parts of a block (Res2Net's scale), and the
    embedding's size.
    """

    buckets: int = 320
    farthest: int = 800
    speaker_channels: int = 512
    pooled: int = 1536
    bottleneck: int = 128
    scale: int = 8
    embedding: int = 256

    def __post_init__(self):
        super().__post_init__()
        sizes = (self.pooled, self.bottleneck, self.scale, self.embedding)
        require(min(sizes) > 0, "wavlm: sizes must be positive")
        ok = self.speaker_channels % self.scale == 0
        require(ok, "wavlm.speaker_channels: must be a multiple of scale")
        ok = self.buckets % 4 == 0 and self.farthest > self.buckets // 4
        require(ok, "wavlm.buckets: a multiple of 4, and a quarter of them under farthest")


@dataclass(frozen=True)
class Emotion2vecConfig(SpeechConfig):
    """emotion2vec+ large (Ma et al. 2023): `prenet` layers, then `layers` more, and classes.

    `extra` are learned frames before those of the wave; `position_layers` convolutions of
    `position_width` tell positions apart.
    """

    layers: int = 16
    prenet: int = 8
    position_width: int = 19
    position_layers: int = 5
    extra: int = 10
    classes: int = 9

    def __post_init__(self):
        super().__post_init__()
        sizes = (self.prenet, self.position_layers, self.extra, self.classes)
        require(min(sizes) > 0, "emotion2vec: sizes must be positive")
