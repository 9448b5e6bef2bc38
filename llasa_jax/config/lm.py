"""Settings of the Llama decoder."""

from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require


@dataclass(frozen=True)
class RopeScaling:
    """The llama3 rule for positions past the original context (Llama 3.1 and 3.2)."""

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True)
class AttentionBlocks:
    """Tokens a block of splash attention, at most: of queries and of keys, on the way back too."""

    queries: int = 1024
    keys: int = 1024
    queries_back: int = 1024
    keys_back: int = 1024

    def __post_init__(self):
        sizes = (self.queries, self.keys, self.queries_back, self.keys_back)
        require(min(sizes) >= 128, "lm.attention_blocks: at least 128 tokens each")


PROJECTIONS = ("q", "k", "v", "out", "gate", "up", "down")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of `rank` beside the projections `targets`, weighted by `alpha` / `rank`.

    The defaults are those of Llasa's published fine-tuning.
    """

    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q", "v")

    def __post_init__(self):
        require(self.rank > 0, "lm.lora.rank: must be positive")
        for name in self.targets:
            known = ", ".join(PROJECTIONS)
            require(name in PROJECTIONS, f"lm.lora.targets: no {name!r}, known: {known}")
        require(len(self.targets) > 0, "lm.lora.targets: needs at least one projection")


@dataclass(frozen=True)
class GuideConfig:
    """Guided attention (`lm.guide`): a loss on one query head of some layers, in training alone.

    `sigma` is the deviation of the band around the diagonal between text and speech, as a share of
    their lengths. The loss counts with `weight` at first, and linearly less up to the share `until`
    of the run, from where on it is not there.
    """

    layers: tuple[int, ...] = (1,)
    head: int = 0
    sigma: float = 0.1
    weight: float = 0.3
    until: float = 1.0

    def __post_init__(self):
        require(len(self.layers) > 0, "guide.layers: needs at least one")
        require(min(*self.layers, self.head, 0) >= 0, "guide: layers and heads count from 0")
        require(self.sigma > 0 and self.weight > 0, "guide: sigma and weight must be positive")
        require(0 < self.until <= 1, "guide.until: a share of the run, above 0")


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama decoder over text and speech ids.

    `text_vocab` counts the text tokenizer's ids with its own special tokens; the 8 tags and the
    `codes` speech ids follow it, as in the released models (128256 + 8 + 65536 = 193800).

    `remat` says what a layer keeps for the way back: "none" recomputes nothing, "full" everything,
    "dots" all but the products with weights, "attention" all but the attention's inputs and
    outputs, which "offload" keeps in the host's memory.

    `unseen` is an id that no position attends to: 128009, the <|eot_id|> of Llama 3, as in the
    official training (sentences are padded with it, and each holds three); None as in the official
    inference, where all are seen. With `lora` only adapters are trained (`lm.lora`).
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
    attention_blocks: AttentionBlocks = AttentionBlocks()
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots", "attention", "offload"] = "none"
    scan_layers: bool = True
    unseen: int | None = None
    lora: LoraConfig | None = None

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
