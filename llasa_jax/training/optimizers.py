"""Optimizers and learning rates, from `OptimizerConfig`."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from llasa_jax.config import OptimizerConfig

# Odd quintics c0 x + c1 x^3 + c2 x^5 that take singular values from [0.005, 1] to [0.5, 1.5], each
# nearest to 1 where the one before leaves them (Polar Express, Amsel et al. 2025, 2505.16932):
# three do what Muon's one polynomial does in five steps. A small model's gradient costs no more.
POLAR = (
    (8.2987, -24.4305, 18.0903),
    (3.9152, -2.9211, 0.5592),
    (3.1746, -2.3804, 0.4978),
)
PROJECTIONS = {"q": 1, "k": 1, "v": 1, "out": 2}  # [L, D, N, H], out [L, N, H, D]: axes summed over


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW or Muon at learning rate 1, gradients clipped: the train step scales its updates.

    Muon (Jordan et al. 2024) takes the matrices of stacked layers and AdamW everything else; its
    updates are scaled to AdamW's root mean square (Liu et al. 2025), so that one rate serves both.
    As optax has it, AdamW there has Nesterov's momentum and no weight decay.
    """
    betas = config.beta1, config.beta2
    if config.kind == "adamw":
        rule = optax.adamw(
            1.0, *betas, config.eps, weight_decay=config.weight_decay, mask=is_matrix
        )
    else:
        rule = muon(
            1.0,
            beta=config.momentum,
            ns_coeffs=POLAR,
            ns_steps=len(POLAR),
            weight_decay=config.weight_decay,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            muon_weight_dimension_numbers=hidden_matrices,
            consistent_rms=0.2,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)


def is_matrix(params: dict) -> dict:
    """Tree of booleans: weight decay is for matrices, not for what a channel has one of."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("scale", "bias", "gain", "alpha", "beta"), params
    )


def hidden_matrices(params: dict) -> dict:
    """Muon's view of the parameters; None for those that are not its.

    Its are, in stacked layers, kernels [L, ..., out] and the decoder's attention projections: all
    heads of one are one matrix.
    """

    def view(path: tuple, leaf: jax.Array) -> MuonDimensionNumbers | None:
        names = [entry.key for entry in path]
        if "layers" not in names:
            return None
        if names[-2:-1] == ["attention"] and names[-1] in PROJECTIONS:
            first_out = 1 + PROJECTIONS[names[-1]]
        elif names[-1] == "kernel":
            first_out = leaf.ndim - 1
        else:
            return None
        axes = tuple(range(1, leaf.ndim))
        return MuonDimensionNumbers(axes[: first_out - 1], axes[first_out - 1 :])

    return jax.tree_util.tree_map_with_path(view, params)


def learning_rate(config: OptimizerConfig, progress: jax.Array) -> jax.Array:
    """The rate at `progress` (0 to 1) of the run: warm-up, then what `OptimizerConfig` says.

    It depends on the share done, not on the step: a run that is shortened still ends decayed.
    """
    warm = jnp.minimum(progress / max(config.warmup, 1e-9), 1.0) ** config.warmup_power
    warm = config.start + (1 - config.start) * warm
    if config.schedule == "cosine":
        share = jnp.clip((progress - config.warmup) / max(1 - config.warmup, 1e-9), 0, 1)
        level = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * share))
    else:
        begin = 1 - config.decay if config.schedule == "wsd" else config.warmup
        share = jnp.clip((progress - begin) / max(config.decay, 1e-9), 0, 1)
        level = 1 - (1 - config.final) * share
    return config.peak * warm * level
