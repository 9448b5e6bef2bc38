"""What `llasa train` minimises: next-token cross-entropy on START, codes and END."""

from collections.abc import Callable

import grain
import jax
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, DecoderRun
from llasa_jax.lm.loss import Loss, chunked_cross_entropy
from llasa_jax.lm.model import Decoder
from llasa_jax.training.loop import Objective


def language_objective(run: DecoderRun) -> Objective:
    """Mean nats of the learned tokens; batches are `data.pipeline.collate`'s packed rows."""
    nats = _batch_nats(run.lm, run.loss_chunk)

    def init(key: jax.Array) -> dict:
        return nn.split(Decoder(run.lm, rngs=nnx.Rngs(key)))[1]

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        mean = nats(params, batch).mean
        return mean, {"nats": mean}

    return Objective("language model", init, loss)


def validation_nats(run: DecoderRun, batches: grain.MapDataset) -> Callable[[dict], dict]:
    """params -> {"nats": mean over every learned token of `batches`}."""
    nats = jax.jit(_batch_nats(run.lm, run.loss_chunk))

    def validate(params: dict) -> dict:
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
