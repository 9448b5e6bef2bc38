"""The language model as its own verifier: p(text | speech), on codes, without decoding a wave.

A model that was trained in both directions (`lm.vocabulary`, "understanding") reads a candidate's
codes and is asked for their text: the score is the mean log-probability of the text's ids and of
the tag that ends it, which a candidate that says more than the text makes unlikely. It is no
judge of what it selected, and no independent one of anything the same model spoke.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax import nn
from llasa_jax.config import DecoderConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.attention import LANES
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.verifiers.batch import pad_labels
from llasa_jax.verifiers.protocol import Candidates, Steps, Verifier


def self_verifier(
    config: DecoderConfig, params: dict, vocabulary: Vocabulary, name: str = "self"
) -> Verifier:
    """Scores are mean log-probabilities of the reference text's ids and its end.

    A candidate's codes are its whole ones: its samples over those of a code.

    Raises:
        UserError: if the vocabulary is not the model's.
    """
    if vocabulary.size != config.vocab:
        raise UserError(
            f"verifier {name}: the model has {config.vocab} ids, its vocabulary {vocabulary.size}; "
            "they belong to different models"
        )
    graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    before, between, _ = vocabulary.frame("understanding")

    def score(params: dict, candidates: Candidates, labels: jax.Array) -> jax.Array:
        decoder = nn.merge(graphdef, params)
        hop = candidates.waves.shape[1] // candidates.codes.shape[1]
        counts = jnp.minimum(candidates.lengths // hop, candidates.codes.shape[1])[:, None]
        asked = jnp.concatenate([jnp.asarray(between), jnp.maximum(labels, 0)])
        ids = _joined(before, candidates.codes + vocabulary.first_code, counts, asked)
        if config.attention == "splash":
            ids = jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % LANES)))
        hidden = decoder.hidden(ids, jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape))
        places = counts + (len(before) + len(between) - 1) + jnp.arange(len(labels))
        return _mean_of(decoder, jnp.take_along_axis(hidden, places[..., None], 1), labels)

    def start(params: dict, candidates: int, codes: int) -> dict:
        nothing = nothing_read(config, candidates, len(before) + codes)
        ids = jnp.broadcast_to(jnp.asarray(before), (candidates, len(before)))
        counts = jnp.full(candidates, len(before), jnp.int32)
        return read_on(nn.merge(graphdef, params), nothing, ids, counts)[1]

    def hear(params: dict, state: dict, codes: jax.Array, counts: jax.Array) -> dict:
        ids = codes + vocabulary.first_code
        return read_on(nn.merge(graphdef, params), state, ids, counts)[1]

    def score_heard(params: dict, state: dict, labels: jax.Array) -> jax.Array:
        decoder = nn.merge(graphdef, params)
        asked = jnp.concatenate([jnp.asarray(between), jnp.maximum(labels, 0)]).astype(jnp.int32)
        rows = jnp.broadcast_to(asked, (len(state["count"]), len(asked)))
        hidden, _ = read_on(decoder, state, rows, jnp.zeros_like(state["count"]))
        return _mean_of(decoder, hidden[:, len(between) - 1 : -1], labels)

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        return pad_labels(np.append(vocabulary.encode_text(text), vocabulary.text_end), -1)

    return Verifier(name, params, score, reference, Steps(start, hear, score_heard))


def _mean_of(decoder: Decoder, asking: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean log-probability [N] of the labels [L] given hidden states [N, L, D] before each."""

    def of_one(asking: jax.Array) -> jax.Array:  # all logits at once would be gigabytes
        of_ids = jax.nn.log_softmax(decoder.logits(asking))
        return jnp.take_along_axis(of_ids, jnp.maximum(labels, 0)[:, None], -1)[:, 0]

    weight = (labels >= 0).astype(jnp.float32)
    return (jax.lax.map(of_one, asking) * weight).sum(1) / weight.sum()


def nothing_read(config: DecoderConfig, candidates: int, room: int) -> dict:
    """The state of so many candidates before the first id, with room for so many ids each."""
    shape = (candidates, config.layers, config.kv_heads, room, config.head_dim)
    return {
        "keys": jnp.zeros(shape, config.compute_dtype),
        "values": jnp.zeros(shape, config.compute_dtype),
        "seen": jnp.zeros((candidates, room), bool),
        "count": jnp.zeros(candidates, jnp.int32),
    }


def read_on(
    decoder: Decoder, state: dict, ids: jax.Array, counts: jax.Array
) -> tuple[jax.Array, dict]:
    """Hidden states [N, M, D] of ids [N, M] after what is kept, and the state with `counts` more.

    Args:
        state: keys and values [N, L, K, S, H], which of them are seen [N, S], and how many ids
            each candidate has read [N].
    """
    config, (batch, size) = decoder.config, ids.shape
    seen = jnp.ones(ids.shape, bool) if config.unseen is None else ids != config.unseen
    own = jnp.tril(jnp.ones((size, size), bool)) & seen[:, None]
    past = jnp.broadcast_to(state["seen"][:, None], (batch, size, state["seen"].shape[1]))
    mask = jnp.concatenate([past, own], -1)[:, None, None]

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, keys: jax.Array, values: jax.Array):
        new = k.swapaxes(1, 2), v.swapaxes(1, 2)
        k, v = (jnp.concatenate(pair, 2) for pair in zip((keys, values), new, strict=True))
        q = q.reshape(batch, size, config.kv_heads, -1, config.head_dim) * config.head_dim**-0.5
        scores = jnp.einsum("NMKGH,NKSH->NKGMS", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30)).astype(v.dtype)
        return jnp.einsum("NKGMS,NKSH->NMKGH", weights, v), new

    x, angles = decoder.embed(ids, state["count"][:, None] + jnp.arange(size))
    each = tuple(state[name].swapaxes(0, 1) for name in ("keys", "values"))
    x, new = decoder.layers(x, angles, attend, each=each)
    real = seen & (jnp.arange(size) < counts[:, None])

    def put(state: dict, keys: jax.Array, values: jax.Array, real: jax.Array) -> dict:
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state["count"])
        return {
            "keys": write(state["keys"], keys, axis=2),
            "values": write(state["values"], values, axis=2),
            "seen": write(state["seen"], real, axis=0),
        }

    kept = jax.vmap(put)(state, *(one.swapaxes(0, 1) for one in new), real)
    return decoder.norm(x), kept | {"count": state["count"] + counts}


def _joined(
    before: np.ndarray, speech: jax.Array, counts: jax.Array, after: jax.Array
) -> jax.Array:
    """Rows of ids: `before` [A], the first `counts` [N, 1] of speech ids [N, T], `after` [C]."""
    place = jnp.arange(len(before) + speech.shape[1] + len(after))
    in_speech = place - len(before)
    in_after = in_speech - counts
    rows = jnp.pad(speech, ((0, 0), (len(before), len(after))))
    rows = rows.at[:, : len(before)].set(before)
    ends = after[jnp.clip(in_after, 0, len(after) - 1)]
    return jnp.where(in_after >= 0, ends, rows).astype(jnp.int32)
