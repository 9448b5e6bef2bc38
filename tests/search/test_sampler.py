import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import GuardConfig, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.blank import blank_prompt
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import EOT, nano_vocabulary
from llasa_jax.search import cache
from llasa_jax.search.guards import LOOP, RUNAWAY, SILENCE, judge_codes, longest_loop
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.session import Session, Start, width

CODES = 40
VOCABULARY = nano_vocabulary(CODES)
TEXTS = ("Hello there.", "A longer sentence, of a few words more.", "Yes")
PROMPTS = [VOCABULARY.prompt(text) for text in TEXTS]


BOUNDS = dict(min_codes=[1, 5, 3], max_codes=[30, 20, 100])


@pytest.fixture(scope="module")
def takes(tiny):
    """Four of each prompt; some of the last outgrow the first caches."""
    pools = tiny.sampler()(PROMPTS, candidates=4, seed=7, **BOUNDS)
    assert max(len(take.codes) for take in pools[2]) > 64
    return pools


@pytest.fixture(scope="module")
def log_probabilities(tiny):
    """ids [n] -> of every next id [n, V] by a full forward pass, over the speech ids and END."""

    graphdef, params = tiny.model()
    params = jax.device_put(params)

    @jax.jit
    def run(ids):
        decoder = nn.merge(graphdef, params)
        hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])[0]
        logits = decoder.logits(hidden)
        allowed = jnp.arange(logits.shape[-1]) >= VOCABULARY.first_code
        allowed = allowed.at[VOCABULARY.speech_end].set(True) & (
            jnp.arange(logits.shape[-1]) < VOCABULARY.size
        )
        return jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))

    return run


def check_against_a_full_pass(log_probabilities, prompt, take):
    said = VOCABULARY.speech_ids(take.codes)
    said = np.append(said, VOCABULARY.speech_end) if take.stopped else said
    nats = np.asarray(log_probabilities(row(prompt, said)), np.float64)
    expected = sum(nats[len(prompt) - 1 + i, token] for i, token in enumerate(said))
    assert take.log_probability == pytest.approx(expected, abs=1e-4, rel=1e-6)


def row(*parts):
    ids = np.concatenate(parts)
    return np.pad(ids, (0, 256 - len(ids)))


def test_log_probability_from_the_cache_is_that_of_a_full_pass(takes, log_probabilities):
    for prompt, pool in zip(PROMPTS, takes, strict=True):
        for take in pool:
            check_against_a_full_pass(log_probabilities, prompt, take)


def test_guidance_draws_from_what_the_text_changes(tiny, log_probabilities):
    """Greedy, the codes are those of two full passes, with the text and without."""
    config = SamplerConfig(top_k=1, guidance=2.5)
    sampler = tiny.sampler(2, config)
    bounds = dict(min_codes=[12] * 2, max_codes=[12] * 2)
    takes = [one for (one,) in sampler(PROMPTS[:2], candidates=1, seed=3, **bounds)]
    plain = tiny.sampler(2, SamplerConfig(top_k=1))(PROMPTS[:2], candidates=1, seed=3, **bounds)
    for ids, take, (other,) in zip(PROMPTS[:2], takes, plain, strict=True):
        blank = blank_prompt(ids, tiny.config.text_vocab)
        assert len(blank) == len(ids) and 0 < (blank != ids).sum() < len(ids)
        said = VOCABULARY.speech_ids(take.codes)
        nats, without = (
            np.asarray(log_probabilities(row(one, said)), np.float64)[len(ids) - 1 :]
            for one in (ids, blank)
        )
        codes = slice(VOCABULARY.first_code, VOCABULARY.size)
        with_text, blank_text = (one[: len(said), codes] for one in (nats, without))
        guided = blank_text + 2.5 * (with_text - blank_text)
        np.testing.assert_array_equal(guided.argmax(1), take.codes)
        assert (take.codes != other.codes).any()
        expected = sum(nats[i, token] for i, token in enumerate(said))
        assert take.log_probability == pytest.approx(expected, abs=1e-4, rel=1e-6)


def test_a_guided_take_is_the_same_in_other_company(tiny):
    sampler = tiny.sampler(12, SamplerConfig(guidance=2.0))
    pools = sampler(PROMPTS, candidates=4, seed=7, **BOUNDS)
    first = {name: values[:1] for name, values in BOUNDS.items()}
    (alone,) = sampler(PROMPTS[:1], candidates=4, seed=7, shape=sampler.shape([4] * 3), **first)
    for one, other in zip(alone, pools[0], strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.log_probability == other.log_probability


def test_unseen_ids_of_the_prompt_stay_unseen(tiny):
    graphdef, params = tiny.model()
    params = jax.device_put(params)
    unseen = VOCABULARY.tokenizer.token_to_id(EOT)
    config = dataclasses.replace(tiny.config, unseen=unseen)
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


def test_end_has_its_probability_at_the_temperature_before_anything_is_cut(tiny, log_probabilities):
    bounds = dict(min_codes=[1] * 3, max_codes=[1] * 3)
    pools = tiny.sampler(columns=4)(PROMPTS, candidates=400, seed=0, **bounds)
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


def test_bounds_are_kept_and_end_never_comes_first(takes):
    for pool, least, most in zip(takes, *BOUNDS.values(), strict=True):
        for take in pool:
            assert least <= len(take.codes) <= most
            assert take.stopped or len(take.codes) == most
            assert ((take.codes >= 0) & (take.codes < CODES)).all()
    assert any(take.stopped for pool in takes for take in pool)
    assert len({tuple(take.codes) for pool in takes for take in pool}) > 9


def equal(one, two):
    return (one.codes.tolist(), one.stopped) == (two.codes.tolist(), two.stopped)


COMPANY = ("Another sentence of a good few words.", TEXTS[2], "Others.", "More.", "Few.")


@pytest.mark.parametrize(
    "before", ["", pytest.param("A long prompt takes two parts. " * 4, marks=pytest.mark.slow)]
)
def test_a_candidate_does_not_depend_on_its_company(tiny, takes, before):
    """Others that are longer, more of them, in other rows: the same to the last bit."""
    company = [VOCABULARY.prompt(text) for text in (before + COMPANY[0], *COMPANY[1:])]
    assert (len(company[0]) > 128) == bool(before)
    bounds = dict(min_codes=[9, 3, 9, 9, 1], max_codes=[120, 100, 70, 20, 110])
    found = tiny.sampler()(company, candidates=4, seed=7, keys=[5, 2, 9, 4, 1], **bounds)[1]
    for one, two in zip(takes[2], found, strict=True):
        assert equal(one, two) and one.log_probability == two.log_probability


def test_failed_takes_are_drawn_again_and_no_others(tiny, takes):
    def odd(take):
        return take.codes[-1] % 2 == 1

    found = tiny.sampler()(PROMPTS, candidates=4, seed=7, retries=2, failed=odd, **BOUNDS)
    pairs = [pair for pools in zip(takes, found, strict=True) for pair in zip(*pools, strict=True)]
    assert 2 < sum(odd(old) for old, _ in pairs) < len(pairs)
    for old, new in pairs:
        assert equal(old, new) == (not odd(old))
        assert (new.discarded >= len(old.codes)) if odd(old) else new.discarded == 0
        assert (new.redrawn > 0) == odd(old)
    assert sum(odd(new) for _, new in pairs) < sum(odd(old) for old, _ in pairs)
    alone = tiny.sampler()(
        PROMPTS[:1], candidates=4, seed=7, retries=2, failed=odd, min_codes=[1], max_codes=[30]
    )
    assert all(map(equal, alone[0], found[0]))


def test_pools_are_nested_and_one_at_a_time_is_the_same(tiny, takes):
    bounds = dict(min_codes=[1], max_codes=[30])
    alone = tiny.sampler(1)([PROMPTS[0]], candidates=5, seed=7, **bounds)[0]
    assert len(alone) == 5 and all(map(equal, takes[0], alone))
    for one, two in zip(takes[0], alone, strict=False):
        assert one.log_probability == pytest.approx(two.log_probability, rel=1e-5)
    other = tiny.sampler(1)([PROMPTS[0]], candidates=2, seed=8, **bounds)[0]
    assert not any(map(equal, other, alone))


def test_threads_side_by_side_draw_what_one_draws(tiny):
    """Each thread runs the program of its part's shape, so one of that shape gives equal bits."""
    numbers = [range(5), (), (7, 3, 9)]
    call = dict(candidates=numbers, seed=7, retries=2, failed=lambda take: len(take.codes) % 2 == 0)
    alone, two = tiny.sampler(4), tiny.sampler(8, columns=4)
    alone.cores, two.cores = 1, 2
    assert two.lanes(2, 4) == (2, (1, 4)) and two.shape([5, 0, 3]) == (2, 4)
    expected = alone(PROMPTS, shape=(1, 4), **call, **BOUNDS)
    for found in (two(PROMPTS, **call, **BOUNDS), two(PROMPTS, shape=(1, 8), **call, **BOUNDS)):
        assert [*map(len, found)] == [5, 0, 3]
        for own, other in zip(expected, found, strict=True):
            assert all(map(equal, own, other))
            assert [x.log_probability for x in own] == [x.log_probability for x in other]
    assert any(take.redrawn for own in expected for take in own)


def test_slots_are_parted_where_they_divide_and_are_enough(tiny):
    sampler, guided = tiny.sampler(64), tiny.sampler(64, SamplerConfig(guidance=1.5))
    sampler.cores = guided.cores = 3
    assert sampler.lanes(1, 16) == (2, (1, 8)) and sampler.lanes(6, 4) == (3, (2, 4))
    assert sampler.lanes(1, 12) == (3, (1, 4)) and sampler.lanes(1, 7) == (1, (1, 7))
    assert sampler.lanes(1, 4) == (1, (1, 4)) and guided.lanes(1, 4) == (2, (1, 2))
    sampler.cores = 1
    assert sampler.lanes(1, 16) == (1, (1, 16))


def test_sixteen_candidates_have_one_prompt_between_them(tiny):
    shape = tiny.sampler(16).shape([16])
    make = cache.empty(None, tiny.config, SamplerConfig(), shape, 100, 64)
    rows, slots = jax.eval_shape(make)
    assert rows.caches[0][0][0].shape == (2, 1, 8, 128)
    assert slots.blocks[0][0][0].shape == (2, 16, 8, 64)


def test_no_prompts_and_a_foreign_vocabulary(tiny):
    assert (
        Sampler(*tiny.model(), VOCABULARY)([], candidates=2, min_codes=[], max_codes=[], seed=0)
        == []
    )
    with pytest.raises(UserError, match="40 codes"):
        Sampler(*tiny.model(), nano_vocabulary(41))


def test_loops_and_silences_end_a_take_at_once(tiny):
    """Each guard is set so that it stops some of the takes that are drawn without it."""
    bounds = dict(candidates=4, seed=7, min_codes=[60] * 3, max_codes=[60] * 3)
    free = sum(tiny.sampler()(PROMPTS, **bounds), [])
    assert not any(take.doomed for take in free)
    longest = max(longest_loop(take.codes) for take in free)
    silent = {int(code) for code in free[5].codes[20:23]}
    for name, guards in (
        (LOOP, GuardConfig(loop_codes=longest)),
        (SILENCE, GuardConfig(loop_codes=0, silent_codes=3)),
    ):
        watched = sum(tiny.sampler(silent=sorted(silent))(PROMPTS, guards=guards, **bounds), [])
        assert {take.doomed for take in watched} >= {name}
        for one, two in zip(free, watched, strict=True):
            assert one.codes[: len(two.codes)].tolist() == two.codes.tolist()
            assert judge_codes(two, guards) == (two.doomed or RUNAWAY)
            said = two.codes.tolist() if two.doomed else [*two.codes, -1]
            before = two.codes[:-1] if two.doomed else two.codes
            if name == LOOP:
                assert (longest_loop(two.codes) == longest) == (two.doomed == LOOP)
                assert longest_loop(before) < longest
            else:
                assert (set(said[-3:]) <= silent) == (two.doomed == SILENCE)


def test_a_forked_take_goes_on_from_its_parent(tiny, log_probabilities):
    """Forks at a step that is no multiple of a chunk; then a slot that stays empty."""
    longest = max(map(len, PROMPTS))
    session = Session(tiny.sampler(), 3, 4, longest=longest, most=70)
    session.install(dict(enumerate(PROMPTS)))
    places = [(row, column) for row in range(3) for column in range(4)]
    session.begin([Start(row, column, 1, row, column, 50, 70) for row, column in places])
    session.decode(steps=25)
    before = session.takes(places)
    assert {len(take.codes) for take in before} == {25} and session.drawn.tolist() == [100] * 3
    parents = np.array([[2, 2, 0, 1], [3, 0, 0, 0], [0, 1, 2, 3]])
    kept = np.ones((3, 4), bool)
    kept[2, 3] = False
    numbers = 100 + np.arange(12).reshape(3, 4)
    session.fork(parents, np.zeros((3, 4), int), numbers, kept)
    session.decode()
    after = session.takes(places)
    for (row, column), take in zip(places, after, strict=True):
        parent = before[4 * row + parents[row, column]]
        assert take.codes[:25].tolist() == parent.codes.tolist()
        if kept[row, column]:
            assert 50 <= len(take.codes) <= 70
            check_against_a_full_pass(log_probabilities, PROMPTS[row], take)
    assert after[0].codes.tolist() != after[1].codes.tolist()


@pytest.mark.slow
def test_penalty_and_awareness_spread_the_codes(tiny):
    def kinds(**settings):
        drawn = tiny.sampler(12, SamplerConfig(temperature=0.3, **settings))
        bounds = dict(min_codes=[40] * 3, max_codes=[40] * 3)
        pools = drawn(PROMPTS, candidates=4, seed=0, **bounds)
        return np.mean([len(set(take.codes.tolist())) for pool in pools for take in pool])

    plain = kinds()
    assert kinds(repetition_penalty=1.5) > 1.2 * plain
    assert kinds(ras_window=10) > 1.2 * plain


def test_widths_of_prompts_are_few_and_hold_them():
    found = [width(n) for n in range(1, 600)]
    assert all(n <= w <= max(64, 1.5 * n) for n, w in enumerate(found, 1))
    assert sorted(set(found)) == [64, 96, 128, 192, 256, 384, 512, 768]


@pytest.mark.slow
def test_on_meshes_the_same_is_drawn():
    """Eight emulated devices, in a process of its own: (data, tensor) against one device."""
    script = Path(__file__).with_name("eight_devices.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert set(found) == {"data=8", "data=4 tensor=2", "data=2 fsdp=2 tensor=2"}
    for name, numbers in found.items():
        assert numbers["equal"] >= 0.99 and numbers["nats"] < 1e-4, (name, numbers)


def test_shapes_are_few_and_too_many_slots_are_refused(tiny, monkeypatch):
    drawn = tiny.sampler(64)
    assert drawn.shape([1]) == (1, 1) and drawn.shape([16]) == (1, 16)
    assert {drawn.shape([4] * n) for n in range(9, 100)} == {(16, 4)}
    assert tiny.sampler(12).shape([400]) == (1, 12)
    monkeypatch.setattr("llasa_jax.search.session.free_bytes", lambda: 2**20)
    # A slot of 512 codes: 2 x 2 layers x 2 heads x 8 floats of 4 bytes each.
    with pytest.raises(UserError, match="64 candidates at once of up to 512 codes .* 7 fit"):
        drawn(PROMPTS[:1], candidates=64, seed=0, min_codes=[1], max_codes=[512])
