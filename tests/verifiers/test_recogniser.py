"""The recogniser: padding changes nothing, scores follow CTC, candidates are told apart."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import RecogniserConfig
from llasa_jax.errors import UserError
from llasa_jax.nn import merge
from llasa_jax.verifiers.protocol import Candidates
from llasa_jax.verifiers.recogniser import (
    BatchRecogniser,
    content_verifier,
    ctc_loss_per_character,
    init_recogniser,
    recogniser_definition,
)

CONFIGS = {
    "conv": RecogniserConfig("conv", dim=16, layers=2, width=3, alphabet=" abc"),
    "transformer": RecogniserConfig("transformer", dim=16, layers=2, heads=2, alphabet=" abc"),
}


@cache
def params_of(kind: str) -> dict:
    return jax.jit(lambda key: init_recogniser(CONFIGS[kind], key))(jax.random.key(0))


def waves_of(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, n).astype(np.float32) for n in sizes]


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_and_what_lies_in_it_change_nothing(kind):
    config = CONFIGS[kind]
    params = params_of(kind)
    run = jax.jit(lambda w, n: merge(recogniser_definition(config), params)(w, n))
    waves = waves_of(12345, 7001)
    lengths = np.array([len(w) for w in waves], np.int32)
    batch = np.full((2, 16000), 0.7, np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    logits, mask = run(batch, lengths)
    for i, wave in enumerate(waves):
        alone, alone_mask = run(wave[None], lengths[i : i + 1])
        count = int(alone_mask.sum())
        assert count == int(mask[i].sum()) and abs(count - len(wave) / 320) <= 2
        np.testing.assert_allclose(logits[i, :count], alone[0, :count], atol=2e-4)


def brute_force(log_probs: np.ndarray, labels: list[int]) -> float:
    """Minus the log of the summed probability of every path that collapses to the labels."""
    frames, classes = log_probs.shape
    total = -np.inf
    for path in itertools.product(range(classes), repeat=frames):
        kept = [k for k, _ in itertools.groupby(path) if k]
        if kept == labels:
            total = np.logaddexp(total, sum(log_probs[t, k] for t, k in enumerate(path)))
    return -total


def test_ctc_loss_counts_all_paths():
    logits = np.random.default_rng(1).normal(size=(1, 6, 3)).astype(np.float32)
    mask = np.ones((1, 6), np.float32)
    mask[0, 5:] = 0
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0, :5]
    for labels in ([1], [1, 2], [1, 1], [2, 1, 2]):
        padded = np.array([labels + [0] * (4 - len(labels))], np.int32)
        found = ctc_loss_per_character(jnp.asarray(logits), jnp.asarray(mask), padded)[0]
        assert float(found) == pytest.approx(brute_force(log_probs, labels) / len(labels), 1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_content_scores_are_the_loss_of_each_candidate(kind):
    config = CONFIGS[kind]
    verifier = content_verifier(config, params_of(kind))
    waves = np.stack(waves_of(16000, 16000, 16000))
    lengths = np.array([16000, 9000, 400], np.int32)
    candidates = Candidates(np.zeros((3, 50), np.int32), waves, lengths)
    labels = verifier.reference("abc cab", None)
    score = jax.jit(verifier.score)
    scores = score(verifier.params, candidates, labels)
    assert scores.shape == (3,) and np.isfinite(scores).all() and (scores < 0).all()
    assert scores[2] < -1000  # 25 ms cannot hold seven characters
    alone = Candidates(candidates.codes[1:2], waves[1:2, :9000], lengths[1:2])
    np.testing.assert_allclose(score(verifier.params, alone, labels), scores[1:2], rtol=1e-4)
    with pytest.raises(UserError, match="no character"):
        verifier.reference("123", None)


def test_lists_of_waves_are_heard_in_order_whatever_the_batch():
    config = CONFIGS["conv"]
    params = params_of("conv")
    waves = waves_of(9000, 30000, 500)
    heard = BatchRecogniser(config, params, batch=2).transcribe(waves)
    alone = BatchRecogniser(config, params, batch=1)
    assert heard == [alone.transcribe([wave])[0] for wave in waves]
    assert BatchRecogniser(config, params).transcribe([]) == []
