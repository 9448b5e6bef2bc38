"""The ladder: budgets are met, shapes and names follow by rule, and nothing is left to chance."""

from dataclasses import replace

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax import nn
from llasa_jax.config import DecoderRun, RungConfig, SweepPlan, load_config
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.parallel.flops import parameter_count
from llasa_jax.scaling.ladder import ladder, shape

RUN = load_config("voice_lm", DecoderRun)


@settings(deadline=None)
@given(st.integers(4, 64), st.floats(1e12, 1e16), st.sampled_from([0.0, 0.5]))
def test_a_budget_is_met_and_the_batch_grows_by_rule(eighths, flops, power):
    plan = SweepPlan(RUN, (RungConfig(flops, (8 * eighths,)),), batch_tokens=power)
    (trial,) = ladder(plan)
    batch, steps = trial.run.train.batch, trial.run.train.steps
    assert trial.flops == pytest.approx(flops, rel=0.5 / (steps - 0.5))
    assert batch.bit_count() == 1
    if not power:
        assert batch == RUN.train.batch
    assert ladder(plan) == [trial]


@pytest.mark.parametrize(("width", "tied"), [(16, True), (136, False), (512, True)])
def test_parameters_are_those_of_the_model(width, tied):
    lm = replace(shape(RUN.lm, width, 2), tied_embeddings=tied)
    _, made = nn.abstract(lambda rngs: Decoder(lm, rngs=rngs))
    total = sum(leaf.size for leaf in jax.tree.leaves(made))
    tables = 1 if lm.tied_embeddings else 2
    padding = tables * (lm.padded_vocab - lm.vocab) * lm.dim
    assert parameter_count(lm) == total - padding
    inner = parameter_count(lm, tables=False)
    assert inner == total - tables * lm.padded_vocab * lm.dim


def test_its_own_width_is_the_run_itself():
    assert shape(RUN.lm, RUN.lm.dim, 2) == RUN.lm
    tokens = RUN.train.steps * RUN.train.batch * RUN.row
    flops = ladder(SweepPlan(RUN, (RungConfig(1e14, (256,)),), rate_tokens=-0.3))[0]
    growth = flops.tokens / tokens / 0.98
    expected = RUN.train.optimizer.peak * growth**-0.3
    assert flops.run.train.optimizer.peak == pytest.approx(expected, rel=0.01)


def test_names_carry_what_differs():
    rungs = (RungConfig(6e13, (128,), seeds=(0, 2), data=(1.0, 1 / 3)),)
    names = [trial.name for trial in ladder(SweepPlan(RUN, rungs))]
    assert names[0].startswith("6e13-w128-n953k-d10") and names[0] + "-s2" == names[1]
    assert names[2] == names[0] + "-u33"
    assert len({trial.hash for trial in ladder(SweepPlan(RUN, rungs))}) == 4


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ((RungConfig(1e12, (64, 64)),), "twice"),
        ((RungConfig(1e6, (64,)),), "steps"),
        ((RungConfig(1e12, (65,)),), None),
    ],
)
def test_what_cannot_be_run_is_refused(rungs, words):
    if words is None:
        assert ladder(SweepPlan(RUN, rungs))[0].run.lm.ffn == 195
        return
    with pytest.raises(UserError, match=words):
        ladder(SweepPlan(RUN, rungs))
