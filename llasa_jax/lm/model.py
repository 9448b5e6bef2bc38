"""The Llama decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The architecture is that of Llama 3 (Grattafiori et al. 2024, table 3) as transformers'
`LlamaForCausalLM` computes it, without biases, so that weights go both ways (`interop.llama`).
Tokens come in, hidden states go out; `logits` is separate, because the loss takes it in chunks and
the sampler needs only the speech rows of the vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, GuideConfig
from llasa_jax.lm.attention import UNSEEN, attention
from llasa_jax.lm.lora import adapted, adapter
from llasa_jax.parallel.mesh import Rules, constrain, current_mesh

MASKED = -1e30  # logit of a padded row: no probability, and no NaN where all of a slice is padding

# "attention" marks q, k, v and the attention's result (splash: and its residuals).
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["attention"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
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


def whole(kernel: jax.Array, dtype: jnp.dtype, *axes: str | None) -> jax.Array:
    """A weight as products take it: in their dtype, and gathered along the model's width.

    Left to the compiler, a product over a split width is made in parts as they arrive, which adds
    up a wide result once a device: 1B on 16 chips of v6e would take 2 to 2.6 times as long
    (estimated).
    """
    return constrain(kernel.astype(dtype), *axes)


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, S, in] W [in, out] -> [B, S, out], in the dtype of x."""
    if current_mesh() is not None:  # B and S may be split: they stay apart
        return x @ kernel
    # One row axis: the kernel's gradient then contracts one axis, twice as fast on CPUs.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


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
        out_axes = ("heads", "head_dim")
        self.out = nn.param(rngs, (heads, size, dim), (*out_axes, "embed"), out_init)
        add = partial(adapter, config, rngs=rngs)
        self.q_lora = add("q", (dim,), ("embed",), (heads, size), out_axes)
        self.k_lora = add("k", (dim,), ("embed",), (kv_heads, size), kv_axes[1:])
        self.v_lora = add("v", (dim,), ("embed",), (kv_heads, size), kv_axes[1:])
        self.out_lora = add("out", (heads, size), out_axes, (dim,), ("embed",))

    def __call__(
        self, x: jax.Array, angles: tuple, attend: Callable, cache: tuple
    ) -> tuple[jax.Array, Any]:
        """x [B, S, D] -> y [B, S, D], and what `attend` returns beside its result."""
        wq = whole(self.q[...], x.dtype, None, "heads", "head_dim")
        wk, wv = (whole(w[...], x.dtype, None, "kv_heads", "head_dim") for w in (self.k, self.v))
        q = adapted(jnp.einsum("BSD,DNH->BSNH", x, wq), self.q_lora, x)
        k = adapted(jnp.einsum("BSD,DKH->BSKH", x, wk), self.k_lora, x)
        v = adapted(jnp.einsum("BSD,DKH->BSKH", x, wv), self.v_lora, x)
        q, k = rotate(q, angles), rotate(k, angles)
        q = constrain(q, "batch", "length", "heads", "head_dim")
        k, v = (constrain(x, "batch", "length", "kv_heads", "head_dim") for x in (k, v))
        y, out = attend(*(checkpoint_name(x, "attention") for x in (q, k, v)), *cache)
        y = checkpoint_name(y, "attention").reshape(*x.shape[:2], -1)
        # As one matrix: XLA for CPUs would first transpose a kernel of three axes.
        kernel = whole(self.out[...], x.dtype, "heads", "head_dim", None)
        return adapted(project(y, kernel.reshape(-1, x.shape[-1])), self.out_lora, y), out


class FeedForward(nnx.Module):
    """SwiGLU (Shazeer 2020): (silu(x gate) * x up) down."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        dim, ffn = config.dim, config.ffn
        linear = dict(bias=False, rngs=rngs)
        self.gate = nn.Linear(dim, ffn, ("embed", "mlp"), **linear)
        self.up = nn.Linear(dim, ffn, ("embed", "mlp"), **linear)
        down_init = nn.lecun(ffn * 2 * config.layers)
        self.down = nn.Linear(ffn, dim, ("mlp", "embed"), init=down_init, **linear)
        add = partial(adapter, config, rngs=rngs)
        self.gate_lora = add("gate", (dim,), ("embed",), (ffn,), ("mlp",))
        self.up_lora = add("up", (dim,), ("embed",), (ffn,), ("mlp",))
        self.down_lora = add("down", (ffn,), ("mlp",), (dim,), ("embed",))

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = (whole(one.kernel[...], x.dtype, None, "mlp") for one in (self.gate, self.up))
        gate = adapted(project(x, gate), self.gate_lora, x)
        up = adapted(project(x, up), self.up_lora, x)
        gate, up = (constrain(y, "batch", "length", "mlp") for y in (gate, up))
        y = jax.nn.silu(gate) * up
        down = whole(self.down.kernel[...], x.dtype, "mlp", None)
        return adapted(project(y, down), self.down_lora, y)


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
        x = constrain(x + y, "batch", "length", None)
        x = constrain(x + self.ffn(self.ffn_norm(x)), "batch", "length", None)
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

        attend = self._attend(tokens, segments)
        x, angles = self.embed(tokens, positions)
        x, _ = self.layers(x, angles, lambda q, k, v: (attend(q, k, v), None))
        return self.norm(x)

    def prefill(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """As `hidden`, and every layer's keys and values: two [L, B, K, S, H]."""
        keep = lambda q, k, v: (jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2))  # noqa: E731
        return self.hidden_and_kept(tokens, positions, segments, keep)

    def hidden_and_kept(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array, keep: Callable
    ) -> tuple[jax.Array, Any]:
        """As `hidden`, and what keep(q, k, v) gives of every layer, stacked."""
        attend = self._attend(tokens, segments)
        x, angles = self.embed(tokens, positions)
        each = lambda *qkv: (attend(*qkv), keep(*qkv))  # noqa: E731
        x, kept = self.layers(x, angles, each, each=())
        return self.norm(x), kept

    def guided_heads(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array, guide: GuideConfig
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """As `hidden`, and the guided heads' queries and keys: two [G, B, S, H] of G layers."""
        head, group = guide.head, self.config.heads // self.config.kv_heads
        keep = lambda q, k, v: (q[:, :, head], k[:, :, head // group])  # noqa: E731
        hidden, heads = self.hidden_and_kept(tokens, positions, segments, keep)
        chosen = (x[np.array(guide.layers)] for x in heads)
        return hidden, tuple(constrain(x, None, "batch", "length", "head_dim") for x in chosen)

    def _attend(self, tokens: jax.Array, segments: jax.Array | None) -> Callable:
        """(q, k, v) -> the attention's result, within segments [B, S], as configured."""
        key_segments = segments
        if self.config.unseen is not None:
            segments = jnp.zeros_like(tokens) if segments is None else segments
            key_segments = jnp.where(tokens == self.config.unseen, UNSEEN, segments)
        return partial(
            attention,
            segments=segments,
            key_segments=key_segments,
            implementation=self.config.attention,
            blocks=self.config.attention_blocks,
        )

    def embed(self, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, tuple]:
        """Ids and positions [B, S] -> what the layers take: x [B, S, D], rotary (cos, sin)."""
        angle = positions[..., None, None].astype(jnp.float32) * rope_frequencies(self.config)
        x = look_up(self.embedding[...], tokens, jnp.dtype(self.config.compute_dtype))
        return constrain(x, "batch", "length", None), (jnp.cos(angle), jnp.sin(angle))

    def unstacked(self) -> list[Layer]:
        """The layers one by one, for a decoding loop whose caches differ from layer to layer."""
        graphdef, state = nnx.split(self.layers.layers)
        # A leaf is a stacked array, or the tuple that `nn.for_inference` makes of it.
        leaves, structure = jax.tree.flatten(state, is_leaf=lambda leaf: type(leaf) is tuple)
        pick = lambda i: structure.unflatten([leaf[i] for leaf in leaves])  # noqa: E731
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


def look_up(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of the table [V, D] for ids [B, S]: [B, S, D].

    On a mesh the table stays where it is, split by its width over `fsdp` and by ids over `tensor`:
    each device looks all its neighbours' ids up in its part, and they exchange what they found.
    """
    mesh = current_mesh()
    if mesh is None:
        return table[tokens].astype(dtype)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]

    def on_device(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if fsdp > 1:
            tokens = jax.lax.all_gather(tokens, "fsdp", tiled=True)
        if tensor == 1:
            x = table[tokens].astype(dtype)
        else:
            place = tokens - jax.lax.axis_index("tensor") * len(table)
            found = table[jnp.clip(place, 0, len(table) - 1)].astype(dtype)
            here = (place >= 0) & (place < len(table))
            x = jax.lax.psum(jnp.where(here[..., None], found, 0), "tensor")
        return jax.lax.all_to_all(x, "fsdp", 0, 2, tiled=True) if fsdp > 1 else x

    spec = Rules().spec
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(spec(("vocab", "embed")), spec(("batch", "length"))),
        out_specs=spec(("batch", "length", None)),
        check_vma=False,
    )(table, tokens)


def head_logits(hidden: jax.Array, table: jax.Array, vocab: int | jax.Array) -> jax.Array:
    """hidden [..., D] x table [V, D] -> float32 logits [..., V], rows from `vocab` on masked."""
    logits = jnp.einsum(
        "...D,VD->...V", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    if isinstance(vocab, int) and vocab >= table.shape[0]:
        return logits
    return jnp.where(jnp.arange(table.shape[0]) < vocab, logits, MASKED)
