"""What `llasa train` minimises: next-token cross-entropy on START, codes and END."""

import math
from collections.abc import Callable, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, DecoderRun
from llasa_jax.lm.loss import Loss, chunked_cross_entropy
from llasa_jax.lm.model import Decoder
from llasa_jax.training.loop import Objective


def language_objective(run: DecoderRun, levels: Sequence[int]) -> Objective:
    """Mean nats of the learned tokens; batches are `data.pipeline.collate`'s packed rows.

    Args:
        levels: of the codec's FSQ. Codes that share digits start with rows that are alike, for
            they sound alike: a table of independent rows learns that only code by code.
    """
    nats = _batch_nats(run.lm, run.loss_chunk)
    axes = nn.logical_axes(*nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs)))

    def init(key: jax.Array) -> dict:
        params = nn.split(Decoder(run.lm, rngs=nnx.Rngs(key)))[1]
        rows = code_rows(jax.random.fold_in(key, 1), levels, run.lm.dim)
        start = run.lm.text_vocab + 8
        for name in ("embedding", "head"):
            if name in params:
                params[name] = params[name].at[start : start + len(rows)].set(rows)
        return params

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        mean = nats(params, batch).mean
        return mean, {"nats": mean}

    return Objective("language model", init, loss, axes, ("batch", "length"))


def code_rows(key: jax.Array, levels: Sequence[int], dim: int) -> jax.Array:
    """Rows [codes, D] of deviation 0.02: for each code the mean of a random vector a digit."""
    codes = np.arange(math.prod(levels))
    rows = jnp.zeros((len(codes), dim))
    for place, level in enumerate(levels):
        table = jax.random.normal(jax.random.fold_in(key, place), (level, dim))
        rows += table[codes // math.prod(levels[:place]) % level]
    return 0.02 * rows / math.sqrt(len(levels))


def validation_nats(run: DecoderRun, batches: grain.MapDataset) -> Callable[[dict, int], dict]:
    """(params, step) -> {"nats": mean over every learned token of `batches`}."""
    nats = jax.jit(_batch_nats(run.lm, run.loss_chunk))

    def validate(params: dict, step: int) -> dict:
        parts = [nats(params, batches[i]) for i in range(len(batches))]
        total, weight = (sum(values) for values in zip(*parts, strict=True))
        return {"nats": total / weight}

    return validate


def _batch_nats(config: DecoderConfig, chunk: int) -> Callable[[dict, dict], Loss]:
    graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))

    def nats(params: dict, batch: dict) -> Loss:
        model = nn.merge(graphdef, params)
        hidden = model.hidden(batch["tokens"], batch["positions"], batch["segments"])
        targets, weights = batch["targets"], batch["weights"]
        table = model.head_table()
        return chunked_cross_entropy(
            hidden, table, targets, weights, vocab=config.vocab, chunk=chunk
        )

    return nats
