"""Causal self-attention within packed segments, in implementations chosen by configuration.

On a mesh each device has its rows and heads. Where rows are split by length too (`sequence`), it
has their queries, and gathers the keys and values of the whole row.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from llasa_jax.config import AttentionBlocks
from llasa_jax.errors import UserError
from llasa_jax.parallel.mesh import Rules, current_mesh

MASKED = -1e30
UNSEEN = -1  # the segment of keys that no query sees
LANES = 128  # splash attention's blocks are multiples of it


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    *,
    implementation: str = "reference",
    blocks: AttentionBlocks = AttentionBlocks(),  # noqa: B008 (frozen)
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over earlier keys of the same segment.

    Args:
        q: [B, S, N, H].
        k, v: [B, S, K, H]; N / K query heads share one key-value head.
        segments: int [B, S]; None: each row is one segment.
        key_segments: those of the keys, where they differ (`UNSEEN`).
        implementation: "reference" runs anywhere, "splash" on TPUs, "cudnn" on NVIDIA GPUs.
        blocks: of splash attention.

    Returns:
        [B, S, N, H] in the dtype of q; the softmax is float32.

    Raises:
        UserError: if splash attention cannot divide the rows into blocks.
    """
    mesh = current_mesh()
    key_segments = segments if key_segments is None else key_segments
    shape = dict(mesh.shape) if mesh is not None else {"tensor": 1, "sequence": 1}
    kernel = None
    if implementation == "splash":
        heads, length = q.shape[2] // shape["tensor"], q.shape[1]
        kernel = splash_kernel(heads, length, blocks, parts=shape["sequence"])
    attend = {
        "reference": reference_attention,
        "splash": partial(splash_attention, kernel=kernel),
        "cudnn": cudnn_attention,
    }[implementation]
    if mesh is None:
        return attend(q, k, v, segments, key_segments)
    if segments is None:
        segments = key_segments = jnp.zeros(q.shape[:2], jnp.int32)
    return attention_on_mesh(attend, q, k, v, segments, key_segments, kernel)


def attention_on_mesh(
    attend: Callable,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    key_segments: jax.Array,
    kernel: Callable | None,
) -> jax.Array:
    """`attend` of whole tensors, on each device with its rows, heads and queries."""
    mesh = current_mesh()
    spec = Rules().spec
    queries = spec(("batch", "length", "heads", "head_dim"))
    keys = spec(("batch", "length", "kv_heads", "head_dim"))
    rows = spec(("batch", "length"))
    where = NamedSharding(mesh, PartitionSpec(None, Rules().length))
    kernel_spec = None if kernel is None else kernel.manual_sharding_spec(where)
    parts = mesh.shape["sequence"]

    def on_device(q, k, v, segments, key_segments, kernel):  # noqa: ANN001, ANN202
        offset = None
        if parts > 1:
            offset = jax.lax.axis_index("sequence") * q.shape[1]
            whole = partial(jax.lax.all_gather, axis_name="sequence", axis=1, tiled=True)
            k, v, key_segments = whole(k), whole(v), whole(key_segments)
        given = {} if kernel is None else {"kernel": kernel}
        return attend(q, k, v, segments, key_segments, offset, **given)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(queries, keys, keys, rows, rows, kernel_spec),
        out_specs=queries,
        check_vma=False,
    )(q, k, v, segments, key_segments, kernel)


def reference_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    offset: jax.Array | None = None,
    *,
    block: int = 128,
) -> jax.Array:
    """The formula in plain JAX, `block` queries at a time against the keys up to them.

    Later keys are never multiplied, which saves nearly half of the work of a full square: at
    B=8, S=512, N=4, K=2, H=64 a forward and backward pass on a CPU takes 0.59 of its time.

    Args:
        offset: place of the first query among the keys of a longer row; None: at its beginning.
    """
    length, kv_heads = q.shape[1], k.shape[2]
    key_segments = segments if key_segments is None else key_segments
    block = max(block, -(-length // 16))  # long rows: at most 16 blocks to compile
    q = rearrange(q * q.shape[-1] ** -0.5, "B S (K G) H -> B K G S H", K=kv_heads)
    k, v = rearrange(k, "B T K H -> B K T H"), rearrange(v, "B T K H -> B K T H")
    outputs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        keys = stop if offset is None else k.shape[2]
        # The queries of a group as rows of one matrix: fewer and larger products.
        rows = q[..., start:stop, :].reshape(*q.shape[:2], -1, q.shape[-1])
        scores = jnp.matmul(rows, k[:, :, :keys].mT, preferred_element_type=jnp.float32)
        scores = scores.reshape(*q.shape[:3], stop - start, keys)
        places = jnp.arange(start, stop) + (0 if offset is None else offset)
        mask = places[:, None] >= jnp.arange(keys)
        if segments is not None:
            mask = mask & (segments[:, start:stop, None] == key_segments[:, None, :keys])
            mask = mask[:, None, None]
        scores = jnp.where(mask, scores, MASKED)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        y = weights.astype(v.dtype).reshape(*rows.shape[:3], keys) @ v[:, :, :keys]
        y = y.reshape(*q.shape[:3], stop - start, -1)
        # The softmax's divisor: on H values a query instead of T, both ways.
        outputs.append((y / weights.sum(-1, keepdims=True)).astype(v.dtype))
    return rearrange(jnp.concatenate(outputs, 3), "B K G S H -> B S (K G) H")


def cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    offset: jax.Array | None = None,
    *,
    implementation: str = "cudnn",
) -> jax.Array:
    """As `reference_attention`, by `jax.nn.dot_product_attention`: cuDNN's flash attention."""
    mask = None
    if segments is not None:
        mask = (segments[:, :, None] == key_segments[:, None, :])[:, None]
    if offset is not None:
        places = jnp.arange(q.shape[1]) + offset
        mask = mask & (places[:, None] >= jnp.arange(k.shape[1]))
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=offset is None, implementation=implementation
    )


def splash_kernel(
    heads: int, length: int, blocks: AttentionBlocks, *, parts: int = 1, interpret: bool = False
) -> Callable:
    """JAX's block-sparse flash attention for TPUs, causal, for `heads` heads of one row.

    Args:
        length: of the whole row, of whose queries a device has one of `parts`.
        interpret: runs anywhere, slowly: for tests.

    Raises:
        UserError: if the queries of a device do not divide into blocks.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    if length % (LANES * parts):
        raise UserError(
            f"lm.attention: splash takes rows of a multiple of {LANES * parts}, got {length}"
        )

    def fit(block: int, size: int) -> int:
        """The largest block up to `block` that divides `size`."""
        multiples = range(LANES, max(min(block, size), LANES) + 1, LANES)
        return max(multiple for multiple in multiples if size % multiple == 0)

    queries, keys = length // parts, length
    sizes = splash.BlockSizes(
        block_q=fit(blocks.queries, queries),
        block_kv=fit(blocks.keys, keys),
        block_q_dkv=fit(blocks.queries_back, queries),
        block_kv_dkv=fit(blocks.keys_back, keys),
        use_fused_bwd_kernel=True,
    )
    mask = splash.MultiHeadMask([splash.CausalMask((length, length))] * heads)
    return splash.make_splash_mha(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=parts,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    offset: jax.Array | None = None,
    *,
    kernel: Callable,
) -> jax.Array:
    """As `reference_attention`; the kernel knows where its queries stand."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    q, k, v = (rearrange(x, "B S N H -> B N S H") for x in (q * q.shape[-1] ** -0.5, k, v))
    ids = None if segments is None else SegmentIds(segments, key_segments)
    return rearrange(jax.vmap(kernel)(q, k, v, ids), "B N S H -> B S N H")
