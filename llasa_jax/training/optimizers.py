"""Optimizers and learning rates, from `OptimizerConfig`."""

import jax
import jax.numpy as jnp
import optax

from llasa_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipped AdamW without its learning rate: the train step scales by `learning_rate`."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=is_matrix),
    )


def is_matrix(params: dict) -> dict:
    """Tree of booleans: weight decay is for matrices, not for scales and biases."""
    last = lambda path: path[-1].key  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        lambda path, _: last(path) not in ("scale", "bias"), params
    )


def learning_rate(config: OptimizerConfig, progress: jax.Array) -> jax.Array:
    """The rate at `progress` (0 to 1) of the run: linear warm-up, then cosine or hold-and-decay.

    It depends on the share done, not on the step: a run that is shortened still ends decayed.
    """
    warm = jnp.minimum(progress / max(config.warmup, 1e-9), 1.0)
    if config.schedule == "cosine":
        share = jnp.clip((progress - config.warmup) / (1 - config.warmup), 0, 1)
        level = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * share))
    else:
        share = jnp.clip((progress - 1 + config.decay) / config.decay, 0, 1)
        level = 1 - (1 - config.final) * share
    return config.peak * warm * level
