from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, TransformerConfig
from llasa_jax.lm.model import Decoder
from llasa_jax.parallel import flops

CONFIG = DecoderConfig(
    dim=48,
    ffn=80,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    text_vocab=100,
    codes=200,
    vocab_multiple=1,
)


@pytest.fixture(scope="module")
def program():
    graphdef, shapes = nn.abstract(lambda rngs: Decoder(CONFIG, rngs=rngs))
    tokens = jnp.zeros((2, 32), jnp.int32)

    def loss(params, head):
        model = nn.merge(graphdef, params)
        hidden = model.hidden(tokens, tokens, tokens)
        return (model.logits(hidden) if head else hidden).sum()

    return loss, shapes


@pytest.mark.parametrize("head", [True, False])
def test_decoder_flops_are_those_of_the_program(program, head):
    loss, shapes = program
    made = flops.product_flops(jax.make_jaxpr(lambda p: loss(p, head))(shapes).jaxpr)
    # The reference attention computes the masked half too.
    masked = CONFIG.layers * 64 * 2 * 32 * CONFIG.heads * CONFIG.head_dim
    assert flops.decoder_flops(CONFIG, 64, 32, head=head) + masked == made


def test_training_is_three_times_the_forward_pass(program):
    loss, shapes = program
    forward = flops.product_flops(jax.make_jaxpr(lambda p: loss(p, True))(shapes).jaxpr)
    both = flops.product_flops(jax.make_jaxpr(jax.grad(lambda p: loss(p, True)))(shapes).jaxpr)
    assert both == flops.TRAIN * forward


def test_llasa_1b():
    """6 N T and the attention's part, with N = 1.23 billion in the layers and 0.40 in the head."""
    config = DecoderConfig(dim=2048, ffn=8192, layers=16, heads=32, kv_heads=8, head_dim=64)
    matrices = 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192)
    attention = 16 * 2 * 2048 * 2048
    without_head = flops.decoder_flops(config, 1, 2048, head=False)
    assert without_head == 2 * matrices + attention
    assert flops.decoder_flops(config, 1, 2048) - without_head == 2 * 2048 * 193_800


def test_transformer_flops():
    config = TransformerConfig(dim=1024, ffn=4096, layers=12, heads=16)
    weights = 12 * (4 * 1024**2 + 2 * 1024 * 4096)
    assert flops.transformer_flops(config, 50, 250) == 50 * (2 * weights + 12 * 4 * 250 * 1024)


@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (1, 3, 1), (4, 1, 1), (1, 1, 8)])
def test_convolutions_cost_the_same_forward_and_for_each_gradient(stride, dilation, groups):
    x, kernel = jnp.zeros((2, 64, 8)), jnp.zeros((5, 8 // groups, 16))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), "SAME", rhs_dilation=(dilation,), feature_group_count=groups,
            dimension_numbers=("NWC", "WIO", "NWC"),
        ).sum()  # fmt: skip

    forward = flops.product_flops(jax.make_jaxpr(convolve)(x, kernel).jaxpr)
    assert forward == 2 * (2 * 64 / stride * 16) * (5 * 8 / groups)
    both = flops.product_flops(jax.make_jaxpr(jax.grad(convolve, (0, 1)))(x, kernel).jaxpr)
    assert both == pytest.approx(flops.TRAIN * forward, rel=0.05)  # edges


def test_loops_and_branches():
    matrix = jnp.zeros((4, 4))
    product = 2 * 4**3
    turn = lambda x, _: (jnp.tanh(x @ matrix), None)  # noqa: E731
    scanned = lambda x: jax.lax.scan(turn, x, None, length=5)[0]  # noqa: E731
    branched = lambda x: jax.lax.cond(x.sum() > 0, scanned, lambda x: x @ matrix, x)  # noqa: E731
    count = lambda f: flops.product_flops(jax.make_jaxpr(f)(matrix).jaxpr)  # noqa: E731
    assert count(scanned) == count(jax.jit(branched)) == 5 * product
    # Recomputed once on the way back, beside the two products of the gradient... of x alone.
    gradient = jax.grad(lambda x: scanned(x).sum())
    again = jax.grad(lambda x: jax.checkpoint(scanned)(x).sum())
    assert count(again) - count(gradient) == 5 * product


def test_peaks():
    chips = lambda kind, n: [SimpleNamespace(device_kind=kind)] * n  # noqa: E731
    assert flops.peak_flops(chips("TPU v5 lite", 4)) == 4 * 197e12
    assert flops.peak_flops(chips("TPU v5p", 1)) == flops.peak_flops(chips("TPU v5", 1)) == 459e12
    assert flops.peak_flops(chips("TPU7x", 2)) == 2307e12
    assert flops.peak_flops(chips("NVIDIA A100-SXM4-80GB", 1)) == 312e12
    assert flops.peak_flops(jax.devices("cpu")) is None
    assert flops.utilisation(1e15, 2, chips("TPU v6 lite", 1)) == pytest.approx(0.5447, abs=1e-4)
    assert flops.utilisation(1, 1, jax.devices("cpu")) is None


def test_products_in_a_shard_map_are_those_of_all_devices():
    mesh = AbstractMesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec(("a", "b"))
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    traced = jax.make_jaxpr(mapped)(jnp.zeros((16, 8)), jnp.zeros((8, 4)))
    assert flops.product_flops(traced.jaxpr) == 2 * 16 * 8 * 4


def test_a_kernel_counts_at_each_point_of_its_grid():
    """The flash kernel of 2 heads over 1,024 positions: scores and values, the whole square."""
    mask = splash.MultiHeadMask([splash.CausalMask((1024, 1024))] * 2)
    kernel = splash.make_splash_mha_single_device(mask=mask)
    heads = jnp.zeros((2, 1024, 128))
    made = flops.product_flops(jax.make_jaxpr(kernel)(heads, heads, heads).jaxpr)
    assert made == 2 * 2 * 2 * 1024 * 1024 * 128
