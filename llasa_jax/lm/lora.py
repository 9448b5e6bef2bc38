"""Low-rank adapters (LoRA, Hu et al. 2021): small matrices beside frozen projections.

A projection's parameter `name` has its adapter beside it, `name_lora`; x W + alpha / rank x A B is
what it computes. The adapters start as nothing, and `merged` makes plain weights of both.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig

SUFFIX = "_lora"


class Adapter(nnx.Module):
    """x [B, S, in] -> alpha / rank x A B [B, S, out]; in and out may be several axes as one."""

    def __init__(
        self,
        config: DecoderConfig,
        sizes_in: Sequence[int],
        axes_in: Sequence[str | None],
        sizes_out: Sequence[int],
        axes_out: Sequence[str | None],
        *,
        rngs: nnx.Rngs,
    ):
        rank = config.lora.rank
        init = nn.lecun(math.prod(sizes_in))
        self.down = nn.param(rngs, (*sizes_in, rank), (*axes_in, None), init)
        self.up = nn.param(rngs, (rank, *sizes_out), (None, *axes_out), nn.zeros)
        self.scale = config.lora.alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        down = self.down[...].astype(x.dtype).reshape(x.shape[-1], -1)
        up = self.up[...].astype(x.dtype).reshape(down.shape[1], -1)
        return (x @ down) @ up * self.scale


def adapter(
    config: DecoderConfig,
    name: str,
    sizes_in: Sequence[int],
    axes_in: Sequence[str | None],
    sizes_out: Sequence[int],
    axes_out: Sequence[str | None],
    *,
    rngs: nnx.Rngs,
) -> Adapter | None:
    """The adapter of the projection `name`, if the configuration wants one."""
    if config.lora is None or name not in config.lora.targets:
        return None
    return Adapter(config, sizes_in, axes_in, sizes_out, axes_out, rngs=rngs)


def adapted(y: jax.Array, beside: Adapter | None, x: jax.Array) -> jax.Array:
    """What a projection made of x, with what its adapter adds."""
    return y if beside is None else y + beside(x).reshape(y.shape)


def separate(params: dict) -> tuple[dict, dict]:
    """(adapters, everything else) of a decoder's parameters, as two nested dicts."""
    adapters, base = {}, {}
    for name, part in params.items():
        if name.endswith(SUFFIX):
            adapters[name] = part
        elif isinstance(part, dict):
            inside, rest = separate(part)
            base[name] = rest
            if inside:
                adapters[name] = inside
        else:
            base[name] = part
    return adapters, base


def join(adapters: dict, base: dict) -> dict:
    """The whole parameters again, of what `separate` gives."""
    whole = dict(base)
    for name, part in adapters.items():
        whole[name] = join(part, base[name]) if name in base else part
    return whole


def merged(config: DecoderConfig, params: dict) -> dict:
    """Parameters of the same decoder without adapters: W + alpha / rank A B, in float32."""
    plain = {}
    for name, part in params.items():
        if not name.endswith(SUFFIX):
            plain[name] = merged(config, part) if isinstance(part, dict) else part
    for name, part in params.items():
        if not name.endswith(SUFFIX):
            continue
        target = name.removesuffix(SUFFIX)
        weight = plain[target]["kernel"] if isinstance(plain[target], dict) else plain[target]
        layers, rank = len(weight), config.lora.rank
        down, up = (jnp.asarray(part[side], jnp.float32) for side in ("down", "up"))
        product = down.reshape(layers, -1, rank) @ up.reshape(layers, rank, -1)
        weight = weight + (config.lora.alpha / rank * product).reshape(weight.shape)
        plain[target] = {"kernel": weight} if isinstance(plain[target], dict) else weight
    return plain
