import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax.config import BeamConfig, GuardConfig
from llasa_jax.errors import UserError
from llasa_jax.search.beam import beam_pools
from llasa_jax.search.engine import Prompt
from llasa_jax.search.record import search_record
from llasa_jax.search.strategies import best_of, first_accepted
from llasa_jax.search.take import EARLY_STOP, OK
from llasa_jax.verifiers.itself import self_verifier

TEXTS = ("Hello there.", "A longer sentence, of a few words more.", "Yes")
REFERENCES = [(np.zeros(1, np.float32),)] * 3
WEIGHTS = {"level": 1.0}
BEAM = BeamConfig(beams=2, samples=2, step_codes=10, prefix_seconds=0.5)


@pytest.fixture(scope="module")
def pools(tiny):
    found, seconds = tiny.engine().pools(TEXTS, REFERENCES, candidates=4, seed=3)
    assert seconds > 0
    return found


def codes(pool):
    return [take.codes.tolist() for take in pool.takes]


def test_waves_have_the_rate_at_which_the_codec_writes(tiny, pools):
    engine = tiny.engine()
    assert engine.rate == 24000
    for pool in pools:
        for take, wave in zip(pool.takes, pool.waves, strict=True):
            assert len(wave) / engine.rate == len(take.codes) / 50


def test_sequential_draws_the_pool_up_to_the_first_accepted(tiny, pools):
    levels = np.concatenate([pool.scores["level"] for pool in pools])
    thresholds = {"level": float(np.median(levels))}
    found, _ = tiny.engine().sequential(
        TEXTS, REFERENCES, candidates=4, thresholds=thresholds, seed=3
    )
    lengths = set()
    for whole, pool in zip(pools, found, strict=True):
        place = first_accepted(whole, thresholds)
        lengths.add(len(pool.takes))
        assert len(pool.takes) == (4 if place is None else place + 1)
        assert codes(pool) == codes(whole)[: len(pool.takes)]
        assert pool.tokens == whole.first(len(pool.takes)).tokens
    assert len(lengths) > 1


def test_what_can_only_be_heard_to_fail_is_drawn_again(tiny, pools):
    """A guard for which the mean take is too short: some redraws help, none is lost."""
    usual = GuardConfig(min_codes=0.1, slack_codes=10, loop_codes=0, retries=0, silence_db=-8.0)
    once, _ = tiny.engine(usual).pools(TEXTS, REFERENCES, candidates=4, seed=3)
    often, _ = tiny.engine(replace(usual, retries=3)).pools(TEXTS, REFERENCES, candidates=4, seed=3)
    before = [status for pool in once for status in pool.statuses]
    after = [status for pool in often for status in pool.statuses]
    assert before.count(OK) < after.count(OK)
    for old, new in zip(once, often, strict=True):
        for place, status in enumerate(old.statuses):
            same = old.takes[place].codes.tolist() == new.takes[place].codes.tolist()
            assert same == (status == OK)
            assert (new.takes[place].redrawn > 0) == (status != OK)
            assert new.statuses[place] == OK or new.takes[place].redrawn == 3
        assert new.tokens > old.tokens or all(status == OK for status in old.statuses)


def test_partial_reward_keeps_prefixes_that_score_well(tiny, pools):
    found, _ = beam_pools(tiny.engine(), TEXTS, REFERENCES, BEAM, WEIGHTS, seed=3)
    prefix = 30  # 0.5 s are 25 codes, in steps of 10
    for pool in found:
        assert len(pool.takes) == 4 and len(pool.rounds) <= 3
        starts = {tuple(take.codes[:prefix].tolist()) for take in pool.takes}
        assert len(starts) <= 2  # of two beams
        assert pool.drawn > max(take.tokens for take in pool.takes)
        first = pool.rounds[0]
        assert first["kept"] and len(first["scores"]["level"]) == 2
        assert first["scores"]["level"] == sorted(first["scores"]["level"], reverse=True)
    heads = lambda pool: np.mean([np.mean(t.codes[:prefix]) for t in pool.takes])  # noqa: E731
    assert np.mean([*map(heads, found)]) > np.mean([*map(heads, pools)])


def test_a_beam_to_the_end_raises_what_leads_it(tiny, pools):
    config = replace(BEAM, prefix_seconds=None)
    engine = tiny.engine()
    found, _ = beam_pools(engine, TEXTS, REFERENCES, config, WEIGHTS, seed=3)
    again, _ = beam_pools(engine, TEXTS, REFERENCES, config, WEIGHTS, seed=3)
    other, _ = beam_pools(
        engine, [TEXTS[0], "No", "Nor this."], REFERENCES, config, WEIGHTS, seed=3
    )
    assert [*map(codes, found)] == [*map(codes, again)]
    assert codes(other[0]) == codes(found[0])  # whatever else is in the batch
    kept = [pool.scores["level"][best_of(pool, WEIGHTS)] for pool in found]
    plain = [pool.scores["level"].mean() for pool in pools]
    assert np.mean(kept) > np.mean(plain)
    for pool in found:
        assert 1 <= len(pool.takes) <= 2
        assert all(
            take.stopped or status != OK
            for take, status in zip(pool.takes, pool.statuses, strict=True)
        )
        record = search_record(
            pool, WEIGHTS, {4: 0}, strategy="beam", seconds=1.0, seed=3, settings={}
        )
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record["tokens"] == pool.drawn and len(record["rounds"]) == len(pool.rounds)


def test_a_beam_speaks_on_from_a_prompt(tiny):
    prompt = Prompt("Said before.", np.full(7, 39, np.int32))
    engine = tiny.engine()
    (pool,), _ = beam_pools(
        engine, TEXTS[:1], REFERENCES[:1], BEAM, WEIGHTS, seed=0, prompts=[prompt]
    )
    for take, wave in zip(pool.takes, pool.waves, strict=True):
        assert len(wave) == 480 * len(take.codes)
        np.testing.assert_allclose(wave[::480], np.float32(take.codes) / 40)


@pytest.mark.parametrize("prefix_seconds", [0.5, None])
def test_a_causal_verifier_hears_every_code_once(tiny, prefix_seconds):
    """Led by the model itself, a beam keeps what it keeps where all is heard again each step."""
    config = replace(BEAM, prefix_seconds=prefix_seconds)
    itself = self_verifier(tiny.config, tiny.model()[1], tiny.vocabulary)
    heard = []

    def hear(params, state, codes, counts):
        jax.debug.callback(lambda counts: heard.append(int(counts.sum())), counts)
        return itself.steps.hear(params, state, codes, counts)

    counted = replace(itself, steps=itself.steps._replace(hear=hear))
    again = replace(itself, steps=None)
    found = []
    for verifier in (counted, again):
        engine = tiny.engine()
        engine.verifiers = [verifier]
        references = [(verifier.reference(text, None),) for text in TEXTS]
        pools, _ = beam_pools(engine, TEXTS, references, config, {"self": 1.0}, seed=3)
        found.append(pools)
    jax.effects_barrier()
    for one, other in zip(*found, strict=True):
        assert codes(one) == codes(other) and len(one.rounds) == len(other.rounds) > 1
        for step, whole in zip(one.rounds, other.rounds, strict=True):
            np.testing.assert_allclose(step["scores"]["self"], whole["scores"]["self"], atol=1e-4)
    width, steps = config.width, sum(len(pool.rounds) for pool in found[0])
    assert len(heard) <= steps + len(TEXTS) and sum(heard) <= steps * width * config.step_codes


def test_a_beam_that_does_not_fit_is_refused(tiny):
    with pytest.raises(UserError, match="16 x 16 candidates need 256 slots, the sampler has 12"):
        beam_pools(tiny.engine(), TEXTS, REFERENCES, BeamConfig(), WEIGHTS, seed=0)
    with pytest.raises(UserError, match="verifier wer: gave no scores"):
        beam_pools(tiny.engine(), TEXTS, REFERENCES, BEAM, {"level": 1.0, "wer": 1.0}, seed=0)


def test_early_stops_are_named(tiny, pools):
    strict = GuardConfig(min_codes=0.1, slack_codes=10, loop_codes=0, retries=0, silence_db=-1.0)
    found, _ = tiny.engine(strict).pools(TEXTS[1:2], REFERENCES[:1], candidates=4, seed=3)
    assert set(found[0].statuses) <= {OK, EARLY_STOP, "silence", "runaway"}
    assert found[0].statuses != [OK] * 4
