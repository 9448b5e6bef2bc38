"""Floating-point operations by hand, and what the chips could do: the two sides of MFU.

Model FLOPs are the products of matrices, two for each multiply and add; causal attention counts
half (the masked half need not be computed); padding and recomputation do not count. Training is
three times the forward pass. These are the conventions of Chowdhery et al. 2022 (PaLM, appendix B)
with causal attention halved, as MaxText counts.
"""

import math
from collections.abc import Sequence

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params

from llasa_jax.config import DecoderConfig, TransformerConfig
from llasa_jax.parallel.chips import CHIPS

TRAIN = 3  # forward, and two products of the same size on the way back

# Dense bf16 FLOP/s of one JAX device, by `device_kind` up to its specific part. A TPU7x chip is two
# devices. GPUs: the vendor's product pages.
PEAK = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "TPU7x": CHIPS["tpu7x"].flops / CHIPS["tpu7x"].devices,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def decoder_flops(
    config: DecoderConfig, tokens: float, length: float, *, head: bool = True
) -> float:
    """Forward FLOPs of a Llama decoder over `tokens` tokens in sequences of `length`.

    A token costs, a layer: 4 D N H + 4 D K H (projections), 2 length N H (scores and values,
    halved), 6 D F (SwiGLU); and 2 D V for the head.

    Args:
        length: of a sequence, not of the row where several are packed; with different lengths,
            sum(length^2) / sum(length).
        head: with the output head, which is a third of a small model.
    """
    projections = 4 * config.dim * config.head_dim * (config.heads + config.kv_heads)
    attention = 2 * length * config.heads * config.head_dim
    layer = projections + attention + 6 * config.dim * config.ffn
    return tokens * (config.layers * layer + head * 2 * config.dim * config.vocab)


def parameter_count(config: DecoderConfig, *, tables: bool = True) -> int:
    """Parameters of a Llama decoder, rows of padding left out.

    Args:
        tables: with the embedding, and the head where it has one of its own.
    """
    projections = 2 * config.dim * config.head_dim * (config.heads + config.kv_heads)
    layer = projections + 3 * config.dim * config.ffn + 2 * config.dim
    rows = config.vocab * (1 if config.tied_embeddings else 2)
    return config.layers * layer + config.dim * (1 + tables * rows)


def sampling_flops(config: DecoderConfig, prompt: int, tokens: float, length: float) -> float:
    """FLOPs of drawing `tokens` tokens in takes of `length` after one prompt, computed once.

    The head is that of the codes and END, the only ids that are scored. What is computed in slots
    that are free counts for nothing.
    """
    before = decoder_flops(config, prompt, prompt, head=False)
    drawn = decoder_flops(config, tokens, 2 * prompt + length, head=False)
    return before + drawn + tokens * 2 * config.dim * (config.codes + 1)


def transformer_flops(config: TransformerConfig, frames: float, length: float) -> float:
    """Forward FLOPs of the codec's bidirectional layers over `frames` frames in pieces of `length`.

    A frame costs, a layer: 8 D^2 (projections), 4 length D (scores and values), 4 D F (the
    feed-forward is not gated). Convolutions and the ISTFT are not in it.
    """
    layer = 8 * config.dim**2 + 4 * length * config.dim + 4 * config.dim * config.ffn
    return frames * config.layers * layer


def product_flops(jaxpr: Jaxpr) -> float:
    """FLOPs of the matrix products and convolutions in a traced program.

    Exact for what is written: a scan counts each of its turns, a cond its dearer branch, a while
    loop one turn, recomputation (remat) as often as it happens, what stands in a shard_map on each
    device, a kernel's body at each point of its grid (blocks that its mask skips too). Taps that a
    convolution lays on the zeros of a dilated input do not count, so that both gradients cost what
    the forward pass costs.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            _, features, *taps = parameters["dimension_numbers"].rhs_spec
            taken = kernel[features] * math.prod(kernel[axis] for axis in taps)
            total += 2.0 * size * taken / math.prod(parameters["lhs_dilation"])
        else:
            inside = [product_flops(inner) for inner in jaxprs_in_params(parameters)]
            times = 1
            if name == "scan":
                times = parameters["length"]
            elif name == "shard_map":
                axes = next(v for k, v in parameters.items() if k.endswith("manual_axes"))
                times = math.prod(parameters["mesh"].shape[axis] for axis in axes)
            elif name == "pallas_call":
                times = math.prod(parameters["grid_mapping"].grid)
            total += max(inside) if name == "cond" else times * sum(inside)
    return total


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """bf16 FLOP/s of these devices together; None where one is not in the table (a CPU)."""
    total = 0.0
    for device in devices:
        names = [name for name in PEAK if device.device_kind.startswith(name)]
        if not names:
            return None
        total += PEAK[max(names, key=len)]
    return total


def chip_count(devices: Sequence[jax.Device]) -> float:
    """Chips that these devices are: as many, but half of them on TPU7x."""
    halves = sum(device.device_kind.startswith("TPU7x") for device in devices)
    return len(devices) - halves * (1 - 1 / CHIPS["tpu7x"].devices)


def utilisation(flops: float, seconds: float, devices: Sequence[jax.Device]) -> float | None:
    """MFU: the share of the devices' peak that `flops` in `seconds` are; None as `peak_flops`."""
    peak = peak_flops(devices)
    return None if peak is None else flops / seconds / peak
