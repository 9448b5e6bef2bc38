"""What `llasa train` minimises: next-token cross-entropy on START, codes and END.

Beside it, while a run with `guide` is young, how far one head's attention is from the diagonal.
"""

import math
from collections.abc import Callable, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, DecoderRun, to_dict
from llasa_jax.lm.blank import blank_texts
from llasa_jax.lm.guide import exchange_texts, guide_loss
from llasa_jax.lm.lora import join, separate
from llasa_jax.lm.loss import Loss, chunked_cross_entropy
from llasa_jax.lm.model import Decoder
from llasa_jax.parallel.flops import TRAIN, decoder_flops
from llasa_jax.training.meter import Work
from llasa_jax.training.step import Objective


def language_objective(
    run: DecoderRun, levels: Sequence[int], base: dict | None = None
) -> Objective:
    """Mean nats of the learned tokens; batches are `data.pipeline.collate`'s packed rows.

    Args:
        levels: of the codec's FSQ. Codes that share digits start with rows that are alike, for
            they sound alike: a table of independent rows learns that only code by code.
        base: the frozen parameters of a run with `lm.lora`, which trains adapters beside them;
            without them the objective can be compiled, but not run.
    """
    batch_loss = _batch_loss(run, run.z_loss)
    graphdef, shapes = nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs))
    axes, frozen = nn.logical_axes(graphdef, shapes), {}
    if run.lm.lora is not None:
        axes = dict(zip(("adapters", "base"), separate(axes), strict=True))
        frozen = {"base": separate(shapes)[1] if base is None else base}

    def init(key: jax.Array) -> dict:
        params = nn.split(Decoder(run.lm, rngs=nnx.Rngs(key)))[1]
        if run.lm.lora is not None:
            return {"adapters": separate(params)[0]}
        rows = code_rows(jax.random.fold_in(key, 1), levels, run.lm.dim)
        start = run.lm.text_vocab + 8
        for name in ("embedding", "head"):
            if name in params:
                params[name] = params[name].at[start : start + len(rows)].set(rows)
        return params

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        if run.blank_texts:
            given = (batch["tokens"], batch["segments"], batch["weights"])
            share, text_vocab = run.blank_texts, run.lm.text_vocab
            tokens = blank_texts(key, *given, share=share, text_vocab=text_vocab)
            batch = batch | {"tokens": tokens}
        found, guide = batch_loss(params, batch)
        metrics = {"nats": found.nats / jnp.maximum(found.weight, 1.0)}
        if guide is None:
            return found.mean, metrics
        return found.mean + params["guide"] * guide, metrics | {"guide": guide}

    def scheduled(progress: jax.Array) -> dict:
        if run.guide is None:
            return {}
        return {"guide": run.guide.weight * jnp.maximum(1 - progress / run.guide.until, 0)}

    return Objective(
        "language model",
        init,
        loss,
        axes,
        rows=("batch", "length"),
        frozen=frozen,
        scheduled=scheduled,
        weight=lambda batch: batch["weights"].sum(),
        working=lambda params: working_parameters(run.lm, params),
        work=lambda batch: row_work(run.lm, batch),
        about=to_dict(run),
    )


def working_parameters(config: DecoderConfig, params: dict) -> dict:
    """The layers' matrices as products take them; norms stay, and so does the table, whose
    gradient adds up over chunks."""
    dtype = jnp.dtype(config.compute_dtype)
    cast = lambda p: p.astype(dtype) if p.ndim > 2 else p  # noqa: E731 (stacked: [L, ...])
    name = "layers" if config.lora is None else "adapters"
    return params | {name: jax.tree.map(cast, params[name])}


def row_work(config: DecoderConfig, batch: dict) -> Work:
    """What training on packed rows is: tokens, and FLOPs by the lengths of their sequences.

    With adapters, the frozen matrices have no gradient of their own: two products instead of three.
    """
    real = batch["segments"] > 0
    tokens = float(real.sum())
    # Over a sequence of n positions p, 2 p + 1 adds up to n^2.
    length = float(((2 * batch["positions"] + 1) * real).sum()) / max(tokens, 1.0)

    def flops(head: bool) -> float:
        matrices = decoder_flops(config, tokens, 0.0, head=head)
        attention = decoder_flops(config, tokens, length, head=head) - matrices
        return (TRAIN if config.lora is None else TRAIN - 1) * matrices + TRAIN * attention

    return Work(tokens, flops(head=True), flops(head=False))


def whole(params: dict) -> dict:
    """The decoder's parameters, of what a run trains and what it has frozen side by side."""
    return join(params["adapters"], params["base"]) if "adapters" in params else params


def code_rows(key: jax.Array, levels: Sequence[int], dim: int) -> jax.Array:
    """Rows [codes, D] of deviation 0.02: for each code the mean of a random vector a digit."""
    codes = np.arange(math.prod(levels))
    rows = jnp.zeros((len(codes), dim))
    for place, level in enumerate(levels):
        table = jax.random.normal(jax.random.fold_in(key, place), (level, dim))
        rows += table[codes // math.prod(levels[:place]) % level]
    return 0.02 * rows / math.sqrt(len(levels))


def validation_nats(
    run: DecoderRun, batches: grain.MapDataset, place: Callable[[dict], dict]
) -> Callable[[dict, int], dict]:
    """(params, step) -> {"nats": mean over every learned token of `batches`}.

    Of a run with `guide` also "text": the nats that other texts cost (`guide.exchange_texts`),
    which stay near 0 until the model reads.

    Args:
        place: lays this process's rows of a batch where the parameters are.
    """
    batch_loss = _batch_loss(run, z_loss=0.0)

    @jax.jit
    def nats(params: dict, batch: dict) -> Loss:
        return batch_loss(params, batch)[0]

    @jax.jit
    def astray(params: dict, batch: dict) -> Loss:
        return nats(params, batch | {"tokens": exchange_texts(batch["tokens"], run.lm.text_vocab)})

    def mean(loss: Callable[[dict, dict], Loss], params: dict) -> jax.Array:
        parts = [loss(params, place(batches[i])) for i in range(len(batches))]
        return sum(part.nats for part in parts) / sum(part.weight for part in parts)

    def validate(params: dict, step: int) -> dict:
        found = {"nats": mean(nats, params)}
        if run.guide is not None:
            found["text"] = mean(astray, params) - found["nats"]
        return found

    return validate


def _batch_loss(
    run: DecoderRun, z_loss: float
) -> Callable[[dict, dict], tuple[Loss, jax.Array | None]]:
    """(params, batch) -> the cross-entropy, and the guide's loss where "guide" is in params."""
    graphdef, _ = nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs))

    def batch_loss(params: dict, batch: dict) -> tuple[Loss, jax.Array | None]:
        model = nn.merge(graphdef, whole({k: v for k, v in params.items() if k != "guide"}))
        tokens, segments = batch["tokens"], batch["segments"]
        guide = None
        if "guide" in params:
            hidden, heads = model.guided_heads(tokens, batch["positions"], segments, run.guide)
            guide = guide_loss(
                *heads,
                tokens,
                segments,
                batch["weights"],
                text_vocab=run.lm.text_vocab,
                sigma=run.guide.sigma,
                unseen=run.lm.unseen,
            )
        else:
            hidden = model.hidden(tokens, batch["positions"], segments)
        found = chunked_cross_entropy(
            hidden,
            model.head_table(),
            batch["targets"],
            batch["weights"],
            vocab=run.lm.vocab,
            chunk=run.loss_chunk,
            z_loss=z_loss,
            accumulate=run.loss_accumulate,
            neighbours=run.loss_neighbours,
        )
        return found, guide

    return batch_loss
