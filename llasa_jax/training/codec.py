"""What `llasa codec train` minimises."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.losses import mel_loss
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecRun
from llasa_jax.training.loop import Objective


def codec_objective(run: CodecRun) -> Objective:
    """Reconstruction without discriminators; a batch is {"wave": [B, samples]}."""
    codec = run.codec
    graphdef, _ = nn.abstract(lambda rngs: Codec(codec, rngs=rngs))

    def init(key: jax.Array) -> dict:
        return nn.split(Codec(codec, rngs=nnx.Rngs(key)))[1]

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        wave = batch["wave"]
        mask = jnp.ones((wave.shape[0], wave.shape[1] // codec.hop))
        rebuilt, _ = nn.merge(graphdef, params).reconstruct(wave, mask)
        mel = mel_loss(rebuilt, wave, codec.sample_rate)
        return mel, {"mel": mel}

    return Objective("codec", init, loss)
