"""What `llasa codec train` minimises."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.losses import mel_loss, spread_loss
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecRun
from llasa_jax.training.loop import Objective

SILENCE = 1e-3  # of full scale; frames that never exceed it are padding


def codec_objective(run: CodecRun) -> Objective:
    """Reconstruction without discriminators; a batch is {"wave": [B, samples]}."""
    codec = run.codec
    graphdef, _ = nn.abstract(lambda rngs: Codec(codec, rngs=rngs))

    def init(key: jax.Array) -> dict:
        return nn.split(Codec(codec, rngs=nnx.Rngs(key)))[1]

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        wave = batch["wave"]
        frames = wave.reshape(wave.shape[0], -1, codec.hop)
        mask = jnp.ones(frames.shape[:2])
        model = nn.merge(graphdef, params)
        latents = model.latents(wave, mask)
        rebuilt = model.rebuild(latents, mask)
        mel = mel_loss(rebuilt, wave, codec.sample_rate, run.mel_floor)
        spread = spread_loss(latents, jnp.abs(frames).max(-1) > SILENCE)
        return mel + run.spread_weight * spread, {"mel": mel, "spread": spread}

    return Objective("codec", init, loss)
