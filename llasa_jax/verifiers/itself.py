"""The language model as its own verifier: p(text | speech), on codes, without decoding a wave.

A model that was trained in both directions (`lm.vocabulary`, "understanding") reads a candidate's
codes and is asked for their text: the score is the mean log-probability of the text's ids and of
the tag that ends it, which a candidate that says more than the text makes unlikely. It is no
judge of what it selected, and no independent one of anything the same model spoke.
"""

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
from llasa_jax.verifiers.protocol import Candidates, Verifier


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
        asking = jnp.take_along_axis(hidden, places[..., None], 1)

        def of_one(asking: jax.Array) -> jax.Array:  # all logits at once would be gigabytes
            of_ids = jax.nn.log_softmax(decoder.logits(asking))
            return jnp.take_along_axis(of_ids, jnp.maximum(labels, 0)[:, None], -1)[:, 0]

        weight = (labels >= 0).astype(jnp.float32)
        return (jax.lax.map(of_one, asking) * weight).sum(1) / weight.sum()

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        return pad_labels(np.append(vocabulary.encode_text(text), vocabulary.text_end), -1)

    return Verifier(name, params, score, reference)


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
