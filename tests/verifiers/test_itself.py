"""The model as its own verifier, against a plain pass over each candidate's whole sequence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import DecoderConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.verifiers.itself import self_verifier
from llasa_jax.verifiers.protocol import Candidates, pick_rows, score_all

HOP = 320
VOCABULARY = nano_vocabulary(64)
SIZES = dict(dim=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8)
CONFIG = DecoderConfig(**SIZES, text_vocab=VOCABULARY.text_vocab, codes=64, unseen=VOCABULARY.eot)
TEXT = "is it, you?"


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(lambda rngs: Decoder(CONFIG, rngs=rngs))


def test_scores_are_the_plain_log_probabilities_of_the_text(params):
    rng = np.random.default_rng(0)
    counts = np.array([40, 7, 23], np.int32)
    codes = rng.integers(0, 64, (3, 40)).astype(np.int32)
    waves = np.zeros((3, 40 * HOP), np.float32)
    candidates = Candidates(codes, waves, counts * HOP)
    verifier = self_verifier(CONFIG, params, VOCABULARY)
    target = verifier.reference(TEXT, None)
    scores = score_all([verifier], candidates, [target])["self"]

    @jax.jit
    def log_probabilities(params, ids):
        graphdef, _ = nn.abstract(lambda rngs: Decoder(CONFIG, rngs=rngs))
        decoder = nn.merge(graphdef, params)
        hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])
        return jax.nn.log_softmax(decoder.logits(hidden))[0]

    for row, count, score in zip(codes, counts, scores, strict=True):
        ids, weights = VOCABULARY.example(TEXT, row[:count], "understanding")
        padded = np.pad(ids, (0, 100 - len(ids)))  # causal: what follows changes nothing
        found = np.asarray(log_probabilities(params, padded))
        (places,) = np.nonzero(weights)
        expected = found[places - 1, ids[places]].mean()
        assert abs(score - expected) < 1e-5
    assert np.ptp(scores) > 1e-2


def test_step_by_step_it_scores_what_it_scores_at_once(params):
    rng = np.random.default_rng(1)
    verifier = self_verifier(CONFIG, params, VOCABULARY)
    target = verifier.reference(TEXT, None)
    first, rest = (rng.integers(0, 64, (3, n)).astype(np.int32) for n in (10, 20))
    counts = np.array([[10, 10, 10], [10, 4, 0], [10, 10, 1]], np.int32)
    kept = np.array([1, 0, 0])  # a beam keeps some of its candidates

    @jax.jit
    def stepwise(params):
        steps = verifier.steps
        state = steps.hear(params, steps.start(params, 3, 30), first, counts[:, 0])
        state = pick_rows(state, kept)
        for step in (1, 2):
            state = steps.hear(params, state, rest[:, 10 * step - 10 : 10 * step], counts[:, step])
        return steps.score(params, state, target)

    codes = np.concatenate([first[kept], rest], 1)
    total = counts.sum(1)
    candidates = Candidates(codes, np.zeros((3, 30 * HOP), np.float32), total * HOP)
    expected = score_all([verifier], candidates, [target])["self"]
    np.testing.assert_allclose(stepwise(params), expected, atol=1e-5)


def test_another_vocabulary_is_refused(params):
    with pytest.raises(UserError, match="different models"):
        self_verifier(dataclasses.replace(CONFIG, codes=32), params, VOCABULARY)
    with pytest.raises(UserError, match="is empty"):
        self_verifier(CONFIG, params, VOCABULARY).reference(" ", None)
