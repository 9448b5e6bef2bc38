import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.search import sampler as module
from llasa_jax.search.sampler import Sampler, draw

CODES = 40
VOCABULARY = nano_vocabulary(CODES)
CONFIG = DecoderConfig(
    dim=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8, text_vocab=267, codes=CODES
)
TEXTS = ("Hello there.", "A longer sentence, of a few words more.", "Yes")
PROMPTS = [VOCABULARY.prompt(text) for text in TEXTS]


@functools.cache
def model():
    """A small decoder with sharp, uneven logits, so that a wrong cache shows."""
    graphdef, params = nn.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    params["embedding"] = params["embedding"] * 20
    return graphdef, params


@functools.cache
def takes(**changes):
    sampler = Sampler(*model(), VOCABULARY, SamplerConfig(**changes.pop("config", {})), slots=12)
    arguments = dict(prompts=PROMPTS, candidates=4, min_codes=[1, 5, 3], max_codes=[30, 20, 150])
    return sampler(**{**arguments, "seed": 7, **changes})


@jax.jit
def log_probability(ids, start, length):
    """Of ids[start:start + length] by a full forward pass, over the speech ids and END."""
    decoder = nn.merge(*model())
    hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])[0]
    logits = decoder.logits(hidden)
    allowed = jnp.arange(logits.shape[-1]) >= VOCABULARY.first_code
    allowed = allowed.at[VOCABULARY.speech_end].set(True) & (
        jnp.arange(logits.shape[-1]) < VOCABULARY.size
    )
    nats = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))
    nats = jnp.take_along_axis(nats[:-1], ids[1:, None], axis=1)[:, 0]
    place = jnp.arange(len(nats)) + 1
    return jnp.sum(jnp.where((place >= start) & (place < start + length), nats, 0.0))


def test_log_probability_from_the_cache_is_that_of_a_full_pass():
    for prompt, pool in zip(PROMPTS, takes(), strict=True):
        for take in pool:
            said = VOCABULARY.speech_ids(take.codes)
            said = np.append(said, VOCABULARY.speech_end) if take.stopped else said
            ids = np.zeros(256, np.int32)
            ids[: len(prompt) + len(said)] = [*prompt, *said]
            expected = log_probability(ids, len(prompt), len(said))
            assert take.log_probability == pytest.approx(float(expected), abs=1e-3, rel=1e-5)


def test_bounds_are_kept_and_end_never_comes_first():
    for pool, least, most in zip(takes(), (1, 5, 3), (30, 20, 150), strict=True):
        for take in pool:
            assert least <= len(take.codes) <= most
            assert take.stopped or len(take.codes) == most
            assert ((take.codes >= 0) & (take.codes < CODES)).all()
    assert any(take.stopped for pool in takes() for take in pool)
    assert len({tuple(take.codes) for pool in takes() for take in pool}) > 9


def equal(one, two):
    return (one.codes.tolist(), one.stopped) == (two.codes.tolist(), two.stopped)


def test_a_candidate_does_not_depend_on_its_company():
    sampler = Sampler(*model(), VOCABULARY, slots=12)
    arguments = dict(min_codes=[3], max_codes=[150], seed=7, keys=[2])
    alone = sampler([PROMPTS[2]], candidates=12, **arguments)[0]
    assert all(map(equal, takes()[2], alone))
    turns = Sampler(*model(), VOCABULARY, slots=5)([PROMPTS[2]], candidates=12, **arguments)[0]
    assert len(turns) == 12 and all(map(equal, alone, turns))
    one = sampler([PROMPTS[2]], candidates=1, **arguments)[0]
    assert equal(one[0], alone[0])
    other = sampler([PROMPTS[2]], candidates=1, **{**arguments, "seed": 8})[0]
    assert not equal(other[0], alone[0])


def test_caches_that_grow_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "FIRST_LENGTH", 4)
    sampler = Sampler(*model(), VOCABULARY, slots=12)
    arguments = dict(candidates=4, min_codes=[1, 5, 3], max_codes=[30, 20, 150], seed=7)
    jax.clear_caches()  # the length is read when a program is made
    grown = sampler(PROMPTS, **arguments)
    jax.clear_caches()
    for one, two in zip(takes(), grown, strict=True):
        assert all(map(equal, one, two))


def test_no_prompts_and_a_foreign_vocabulary():
    assert Sampler(*model(), VOCABULARY)([], candidates=2, min_codes=[], max_codes=[], seed=0) == []
    with pytest.raises(UserError, match="40 codes"):
        Sampler(*model(), nano_vocabulary(41))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.floats(0.05, 1), st.floats(0.3, 2), st.integers(0, 99))
def test_draw_keeps_to_top_k_and_top_p(top_k, top_p, temperature, seed):
    config = SamplerConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = 3 * jax.random.normal(jax.random.key(seed), (50, 9))
    found = draw(logits, jax.random.split(jax.random.key(seed + 1), 50), config)
    for row, choice in zip(np.asarray(logits, np.float64) / temperature, found, strict=True):
        order = np.argsort(-row)[: top_k or 9]
        shares = np.exp(row[order] - row[order[0]])
        shares /= shares.sum()
        before = np.cumsum(shares) - shares
        assert int(choice) in order[before < top_p + 1e-5]


def test_draw_follows_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), 20000)
    for top_k, shares in ((0, [0.5, 0.3, 0.15, 0.05]), (2, [0.625, 0.375, 0, 0])):
        config = SamplerConfig(temperature=1.0, top_k=top_k)
        drawn = draw(jnp.broadcast_to(logits, (20000, 4)), keys, config)
        counts = np.bincount(np.asarray(drawn), minlength=4) / 20000
        np.testing.assert_allclose(counts, shares, atol=0.015)
