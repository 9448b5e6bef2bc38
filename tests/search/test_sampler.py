import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import EOT, nano_vocabulary
from llasa_jax.search.draw import draw
from llasa_jax.search.sampler import Sampler

CODES = 40
VOCABULARY = nano_vocabulary(CODES)
CONFIG = DecoderConfig(
    dim=32,
    ffn=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    text_vocab=267,
    codes=CODES,
    tied_embeddings=False,
)
TEXTS = ("Hello there.", "A longer sentence, of a few words more.", "Yes")
PROMPTS = [VOCABULARY.prompt(text) for text in TEXTS]


BOUNDS = dict(min_codes=[1, 5, 3], max_codes=[30, 20, 100])


@functools.cache
def model():
    """A small decoder with sharp, uneven logits, so that a wrong cache shows."""
    graphdef, params = nn.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    return graphdef, params | {name: params[name] * 20 for name in ("embedding", "head")}


def sampler(slots=12):
    return Sampler(*model(), VOCABULARY, slots=slots, room=64)


@functools.cache
def takes():
    """Four of each prompt; some of the last outgrow the first caches."""
    pools = sampler()(PROMPTS, candidates=4, seed=7, **BOUNDS)
    assert max(len(take.codes) for take in pools[2]) > 64
    return pools


@jax.jit
def log_probabilities(ids):
    """Of every next id [n, V] by a full forward pass, over the speech ids and END."""
    decoder = nn.merge(*model())
    hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])[0]
    logits = decoder.logits(hidden)
    allowed = jnp.arange(logits.shape[-1]) >= VOCABULARY.first_code
    allowed = allowed.at[VOCABULARY.speech_end].set(True) & (
        jnp.arange(logits.shape[-1]) < VOCABULARY.size
    )
    return jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))


def row(*parts):
    ids = np.concatenate(parts)
    return np.pad(ids, (0, 256 - len(ids)))


def test_log_probability_from_the_cache_is_that_of_a_full_pass():
    for prompt, pool in zip(PROMPTS, takes(), strict=True):
        for take in pool:
            said = VOCABULARY.speech_ids(take.codes)
            said = np.append(said, VOCABULARY.speech_end) if take.stopped else said
            nats = np.asarray(log_probabilities(row(prompt, said)), np.float64)
            expected = sum(nats[len(prompt) - 1 + i, token] for i, token in enumerate(said))
            assert take.log_probability == pytest.approx(expected, abs=1e-4, rel=1e-6)


def test_unseen_ids_of_the_prompt_stay_unseen():
    graphdef, params = model()
    unseen = VOCABULARY.tokenizer.token_to_id(EOT)
    config = dataclasses.replace(CONFIG, unseen=unseen)
    hidden_from, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    drawn = Sampler(hidden_from, params, VOCABULARY, slots=2, room=64)
    (take, *_), *_ = drawn(PROMPTS[:1], candidates=2, min_codes=[5], max_codes=[5], seed=0)
    ids = np.concatenate([PROMPTS[0], VOCABULARY.speech_ids(take.codes)])
    assert (ids == unseen).sum() == 2

    def nats(graphdef):
        decoder = nn.merge(graphdef, params)
        hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])[0, len(PROMPTS[0]) - 1 :]
        allowed = [VOCABULARY.speech_end, *range(VOCABULARY.first_code, VOCABULARY.size)]
        logits = jax.nn.log_softmax(decoder.logits(hidden)[:, np.array(allowed)])
        return float(sum(logits[i, 1 + code] for i, code in enumerate(take.codes)))

    assert take.log_probability == pytest.approx(nats(hidden_from), abs=1e-4)
    assert abs(take.log_probability - nats(graphdef)) > 1e-3


def test_end_has_its_probability_at_the_temperature_before_anything_is_cut():
    pools = sampler()(PROMPTS, candidates=400, seed=0, min_codes=[1] * 3, max_codes=[1] * 3)
    for prompt, pool in zip(PROMPTS, pools, strict=True):
        end = {}
        for code in {int(take.codes[0]) for take in pool}:
            nats = log_probabilities(row(prompt, VOCABULARY.speech_ids([code])))
            warm = np.exp(np.asarray(nats[len(prompt)], np.float64) / SamplerConfig().temperature)
            end[code] = warm[VOCABULARY.speech_end] / warm.sum()
        shares = np.array([end[int(take.codes[0])] for take in pool])
        stopped = np.array([take.stopped for take in pool])
        deviation = np.sqrt(np.sum(shares * (1 - shares)))
        assert abs(stopped.sum() - shares.sum()) < 4 * deviation


def test_bounds_are_kept_and_end_never_comes_first():
    for pool, least, most in zip(takes(), *BOUNDS.values(), strict=True):
        for take in pool:
            assert least <= len(take.codes) <= most
            assert take.stopped or len(take.codes) == most
            assert ((take.codes >= 0) & (take.codes < CODES)).all()
    assert any(take.stopped for pool in takes() for take in pool)
    assert len({tuple(take.codes) for pool in takes() for take in pool}) > 9


def equal(one, two):
    return (one.codes.tolist(), one.stopped) == (two.codes.tolist(), two.stopped)


def test_a_candidate_does_not_depend_on_its_company():
    texts = ("Another sentence of a good few words.", TEXTS[2], "Others.")
    company = [VOCABULARY.prompt(text) for text in texts]
    bounds = dict(min_codes=[9, 3, 9], max_codes=[110, 100, 70])
    found = sampler()(company, candidates=4, seed=7, keys=[5, 2, 9], **bounds)[1]
    for one, two in zip(takes()[2], found, strict=True):
        assert equal(one, two) and one.log_probability == two.log_probability


def test_failed_takes_are_drawn_again_and_no_others():
    def odd(take):
        return take.codes[-1] % 2 == 1

    found = sampler()(PROMPTS, candidates=4, seed=7, retries=2, failed=odd, **BOUNDS)
    pairs = [
        pair for pools in zip(takes(), found, strict=True) for pair in zip(*pools, strict=True)
    ]
    assert 2 < sum(odd(old) for old, _ in pairs) < len(pairs)
    for old, new in pairs:
        assert equal(old, new) == (not odd(old))
        assert (new.discarded >= len(old.codes)) if odd(old) else new.discarded == 0
    assert sum(odd(new) for _, new in pairs) < sum(odd(old) for old, _ in pairs)
    alone = sampler()(
        PROMPTS[:1], candidates=4, seed=7, retries=2, failed=odd, min_codes=[1], max_codes=[30]
    )
    assert all(map(equal, alone[0], found[0]))


def test_pools_are_nested_and_turns_change_nothing():
    bounds = dict(min_codes=[1], max_codes=[30])
    turns = sampler(2)([PROMPTS[0]], candidates=5, seed=7, **bounds)[0]
    assert len(turns) == 5 and all(map(equal, takes()[0], turns))
    other = sampler(2)([PROMPTS[0]], candidates=2, seed=8, **bounds)[0]
    assert not any(map(equal, other, turns))


def test_no_prompts_and_a_foreign_vocabulary():
    assert Sampler(*model(), VOCABULARY)([], candidates=2, min_codes=[], max_codes=[], seed=0) == []
    with pytest.raises(UserError, match="40 codes"):
        Sampler(*model(), nano_vocabulary(41))


jitted_draw = jax.jit(draw, static_argnums=2)


@pytest.mark.parametrize(
    "top_k, top_p, temperature", [(0, 0.6, 0.7), (4, 1.0, 1.5), (3, 0.5, 1.0), (1, 0.1, 1.0)]
)
def test_draw_keeps_to_top_k_and_top_p(top_k, top_p, temperature):
    config = SamplerConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = 3 * jax.random.normal(jax.random.key(1), (20, 10, 9))
    keys = jax.random.split(jax.random.key(2), (20, 10))
    found = jitted_draw(logits, keys, config).reshape(-1)
    logits = logits.reshape(-1, 9)
    for scores, choice in zip(np.asarray(logits, np.float64) / temperature, found, strict=True):
        order = np.argsort(-scores)[: top_k or 9]
        shares = np.exp(scores[order] - scores[order[0]])
        shares /= shares.sum()
        before = np.cumsum(shares) - shares
        assert int(choice) in order[before < top_p + 1e-5]


def test_draw_follows_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), (100, 200))
    for top_k, shares in ((0, [0.5, 0.3, 0.15, 0.05]), (2, [0.625, 0.375, 0, 0])):
        config = SamplerConfig(temperature=1.0, top_k=top_k)
        drawn = jitted_draw(jnp.broadcast_to(logits, (100, 200, 4)), keys, config)
        counts = np.bincount(np.asarray(drawn).reshape(-1), minlength=4) / drawn.size
        np.testing.assert_allclose(counts, shares, atol=0.015)
