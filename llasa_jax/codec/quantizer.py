"""Finite scalar quantisation (Mentzer et al. 2023) as X-Codec2 has it: one code, several levels."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn


def bound(x: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Squashes x [..., dims] so that rounding gives `levels` values a dimension.

    tanh(x + shift) * half - offset, of vector_quantize_pytorch's FSQ.
    """
    sizes = np.asarray(levels, np.float32)
    half = (sizes - 1) * 1.001 / 2
    offset = np.where(sizes % 2 == 0, np.float32(0.5), np.float32(0.0))
    shift = np.arctanh(offset / half)
    return jnp.tanh(x + shift) * half - offset


def quantize(x: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Nearest grid point of x [..., dims], scaled to [-1, 1]; gradients pass straight through.

    X-Codec2 bounds twice (once in its residual wrapper, once in FSQ); released weights need it.
    """
    bounded = bound(bound(x.astype(jnp.float32), levels), levels)
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / (np.asarray(levels) // 2)


def to_codes(grid: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Grid points [..., dims] -> codes int32 [...]; dimension 0 is the least significant digit."""
    sizes = np.asarray(levels)
    basis = np.concatenate([[1], np.cumprod(sizes[:-1])]).astype(np.int32)
    digits = jnp.round(grid * (sizes // 2)).astype(jnp.int32) + sizes // 2
    return jnp.sum(digits * basis, -1).astype(jnp.int32)


def to_grid(codes: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Codes [...] -> grid points float32 [..., dims], the inverse of `to_codes`."""
    sizes = np.asarray(levels)
    basis = np.concatenate([[1], np.cumprod(sizes[:-1])]).astype(np.int32)
    digits = (codes[..., None] // basis) % sizes
    return ((digits - sizes // 2) / (sizes // 2)).astype(jnp.float32)


class Quantizer(nnx.Module):
    """Linear into the FSQ space, and out of it; float32 throughout."""

    def __init__(self, dim: int, levels: tuple[int, ...], *, rngs: nnx.Rngs):
        self.project_in = nn.Linear(dim, len(levels), ("embed", None), rngs=rngs)
        self.project_out = nn.Linear(len(levels), dim, (None, "embed"), rngs=rngs)
        self.levels = levels

    def latents(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> what is bounded and rounded [..., dims]."""
        return self.project_in(x.astype(jnp.float32))

    def codes(self, latents: jax.Array) -> jax.Array:
        """Latents [..., dims] -> codes int32 [...]."""
        return to_codes(quantize(latents, self.levels), self.levels)

    def features(self, latents: jax.Array) -> jax.Array:
        """Latents [..., dims] -> quantised features [..., D], differentiable."""
        return self.project_out(quantize(latents, self.levels))

    def code_features(self, codes: jax.Array) -> jax.Array:
        """Codes [...] -> quantised features [..., D]."""
        return self.project_out(to_grid(codes, self.levels))
