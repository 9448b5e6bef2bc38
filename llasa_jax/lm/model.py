"""The Llama decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The architecture is that of Llama 3 (Grattafiori et al. 2024, table 3) as transformers'
`LlamaForCausalLM` computes it, without biases, so that weights go both ways (`interop.llama`).
Tokens come in, hidden states go out; `logits` is separate, because the loss takes it in chunks and
the sampler needs only the speech rows of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig
from llasa_jax.lm.attention import attention

MASKED = -1e30  # logit of a padded row: no probability, and no NaN where all of a slice is padding

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Angle per position of each pair of head dimensions: float32 [H/2].

    theta^(-2i/H), and with `rope_scaling` the llama3 rule (Llama 3.1 release, `apply_scaling`):
    wavelengths above original_length / low_freq_factor are stretched by `factor`, those below
    original_length / high_freq_factor stay, and between the two it goes over linearly.

    Rounded step by step as transformers rounds: a difference in the last bit turns position 2,048
    by 1e-4, and sharp attention makes 1e-2 of it in the logits.
    """
    powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    turns = np.power(config.rope_theta, powers.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1) / turns
    rule = config.rope_scaling
    if rule is None:
        return frequencies
    lengths = np.float32(2 * np.pi) / frequencies
    smooth = np.float32(rule.original_length) / lengths - np.float32(rule.low_freq_factor)
    smooth = smooth / np.float32(rule.high_freq_factor - rule.low_freq_factor)
    stretched = frequencies / np.float32(rule.factor)
    between = (1 - smooth) * frequencies / np.float32(rule.factor) + smooth * frequencies
    scaled = np.where(lengths > rule.original_length / rule.low_freq_factor, stretched, between)
    return np.where(lengths < rule.original_length / rule.high_freq_factor, frequencies, scaled)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary embedding (Su et al. 2021) of x [B, S, N, H] by (cos, sin) [B, S, 1, H/2].

    Dimension i turns with dimension i + H/2, the order of the Hugging Face checkpoints.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class SelfAttention(nnx.Module):
    """Grouped-query self-attention: N query heads share K key-value heads of size H."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        dim, heads, kv_heads, size = config.dim, config.heads, config.kv_heads, config.head_dim
        init = nn.lecun(dim)
        kv_axes = ("embed", "kv_heads", "head_dim")
        self.q = nn.param(rngs, (dim, heads, size), ("embed", "heads", "head_dim"), init)
        self.k = nn.param(rngs, (dim, kv_heads, size), kv_axes, init)
        self.v = nn.param(rngs, (dim, kv_heads, size), kv_axes, init)
        out_init = nn.lecun(heads * size * 2 * config.layers)
        self.out = nn.param(rngs, (heads, size, dim), ("heads", "head_dim", "embed"), out_init)

    def __call__(
        self, x: jax.Array, angles: tuple, attend: Callable, cache: tuple
    ) -> tuple[jax.Array, Any]:
        """x [B, S, D] -> y [B, S, D], and what `attend` returns beside its result."""
        q = rotate(jnp.einsum("BSD,DNH->BSNH", x, self.q[...].astype(x.dtype)), angles)
        k = rotate(jnp.einsum("BSD,DKH->BSKH", x, self.k[...].astype(x.dtype)), angles)
        v = jnp.einsum("BSD,DKH->BSKH", x, self.v[...].astype(x.dtype))
        y, out = attend(q, k, v, *cache)
        # As one matrix: XLA for CPUs would first transpose a kernel of three axes.
        kernel = self.out[...].astype(x.dtype).reshape(-1, x.shape[-1])
        return y.reshape(*x.shape[:2], -1) @ kernel, out


class FeedForward(nnx.Module):
    """SwiGLU (Shazeer 2020): (silu(x gate) * x up) down."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        dim, ffn = config.dim, config.ffn
        linear = dict(bias=False, rngs=rngs)
        self.gate = nn.Linear(dim, ffn, ("embed", "mlp"), **linear)
        self.up = nn.Linear(dim, ffn, ("embed", "mlp"), **linear)
        down_init = nn.lecun(ffn * 2 * config.layers)
        self.down = nn.Linear(ffn, dim, ("mlp", "embed"), init=down_init, **linear)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """x + attention(norm(x)), then + feed-forward(norm(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps, rngs=rngs)
        self.attention = SelfAttention(config, rngs=rngs)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps, rngs=rngs)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(
        self, x: jax.Array, angles: tuple, attend: Callable, cache: tuple | None = None
    ) -> Any:
        """x [B, S, D] -> x; with `cache` (possibly empty) -> (x, what `attend` returns beside)."""
        y, out = self.attention(self.attention_norm(x), angles, attend, cache or ())
        x = x + y
        x = x + self.ffn(self.ffn_norm(x))
        return x if cache is None else (x, out)


class Decoder(nnx.Module):
    """The decoder: token ids in, hidden states out; `logits` for any slice of the vocabulary."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        shape, axes = (config.padded_vocab, config.dim), ("vocab", "embed")
        self.embedding = nn.param(rngs, shape, axes, nn.normal(0.02))
        self.layers = nn.Stack(
            lambda rngs: Layer(config, rngs=rngs),
            config.layers,
            scan=config.scan_layers,
            remat=REMAT[config.remat],
            rngs=rngs,
        )
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps, rngs=rngs)
        tied = config.tied_embeddings
        self.head = None if tied else nn.param(rngs, shape, axes, nn.normal(0.02))
        self.config = config

    def hidden(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array | None = None
    ) -> jax.Array:
        """Normalised hidden states [B, S, D] of whole rows.

        Args:
            tokens: ids [B, S].
            positions: place of each token in its own sequence [B, S].
            segments: number of the packed sequence [B, S]; a token attends to earlier tokens of
                its own segment. None: each row is one sequence.
        """

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
            return attention(q, k, v, segments, implementation=self.config.attention), None

        x, angles = self.embed(tokens, positions)
        return self.norm(self.layers(x, angles, attend)[0])

    def prefill(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """As `hidden`, and every layer's keys and values: two [L, B, K, S, H]."""

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
            y = attention(q, k, v, segments, implementation=self.config.attention)
            return y, (jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2))

        x, angles = self.embed(tokens, positions)
        x, keys_values = self.layers(x, angles, attend, each=())
        return self.norm(x), keys_values

    def embed(self, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, tuple]:
        """Ids and positions [B, S] -> what the layers take: x [B, S, D], rotary (cos, sin)."""
        angle = positions[..., None, None].astype(jnp.float32) * rope_frequencies(self.config)
        x = self.embedding[...][tokens].astype(jnp.dtype(self.config.compute_dtype))
        return x, (jnp.cos(angle), jnp.sin(angle))

    def unstacked(self) -> list[Layer]:
        """The layers one by one, for a decoding loop whose caches differ from layer to layer."""
        graphdef, state = nnx.split(self.layers.layers)
        pick = lambda i: jax.tree.map(lambda leaf: leaf[i], state)  # noqa: E731
        return [nnx.merge(graphdef, pick(i)) for i in range(self.config.layers)]

    def head_table(self) -> jax.Array:
        """Rows [V padded, D] whose products with a hidden state are the logits."""
        return self.embedding[...] if self.head is None else self.head[...]

    def logits(self, hidden: jax.Array, start: int = 0, stop: int | None = None) -> jax.Array:
        """Float32 logits [..., stop - start] of the ids start <= id < stop.

        Without `stop`, of all rows of the padded table: padded rows get a large negative value.
        """
        stop = self.config.padded_vocab if stop is None else stop
        return head_logits(hidden, self.head_table()[start:stop], self.config.vocab - start)


def head_logits(hidden: jax.Array, table: jax.Array, vocab: int) -> jax.Array:
    """hidden [..., D] x table [V, D] -> float32 logits [..., V], rows from `vocab` on masked."""
    logits = jnp.einsum(
        "...D,VD->...V", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    if vocab >= table.shape[0]:
        return logits
    return jnp.where(jnp.arange(table.shape[0]) < vocab, logits, MASKED)
