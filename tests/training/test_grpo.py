"""GRPO's objective against plain numpy, and a model that learns from its own choices."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax import nn
from llasa_jax.config import (
    DecoderConfig,
    GrpoRun,
    OptimizerConfig,
    SelectConfig,
    TrainConfig,
)
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.training.grpo import (
    advantages,
    grpo_objective,
    log_probabilities,
    policy_batch,
    policy_loss,
    policy_rows,
)
from llasa_jax.training.loop import fit
from llasa_jax.training.meter import TIMED

pytestmark = pytest.mark.usefixtures("compiled_once")

CODES, END = 6, 11
LM = DecoderConfig(
    dim=8, ffn=8, layers=1, heads=2, kv_heads=1, head_dim=4, text_vocab=10, codes=CODES
)
FIRST = 18  # after 10 ids of text and 8 tags
RUN = GrpoRun(
    lm=LM,
    train=TrainConfig(
        steps=12,
        batch=8,
        optimizer=OptimizerConfig(peak=0.03, warmup=0.0, final=1.0, weight_decay=0.0),
        log_every=2,
        save_every=5,
        keep=9,
    ),
    group=8,
    updates=2,
    temperature=0.7,
    row=12,
    codes=6,
    loss_chunk=4,
)
ROWS = policy_rows(RUN, FIRST, END)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 6))
def test_advantages_are_standardised_in_each_group(seed, groups, size):
    rewards = np.random.default_rng(seed).normal(size=(groups, size))
    found = advantages(rewards)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(1), 1, atol=1e-6)
    np.testing.assert_array_equal(advantages(np.full((groups, size), rewards[0, 0])), 0)
    np.testing.assert_allclose(advantages(3 * rewards + 5), found, atol=1e-6)


def plain_loss(new, old, advantage, mask, clip, reference, kl):
    """The formula, a token after the other."""
    total, count = 0.0, 0
    for i in range(len(new)):
        for t in range(len(new[i])):
            if not mask[i, t]:
                continue
            count += 1
            ratio = np.exp(new[i, t] - old[i, t])
            gain = min(ratio * advantage[i], np.clip(ratio, 1 - clip, 1 + clip) * advantage[i])
            apart = reference[i, t] - new[i, t]
            total += -gain + kl * (np.exp(apart) - apart - 1)
    return total / count


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]))
def test_the_loss_is_the_formula_and_so_is_its_gradient(seed, kl):
    rng = np.random.default_rng(seed)
    new, old, reference = rng.normal(-2, 0.3, (3, 4, 5))
    advantage, mask = rng.normal(size=4), np.arange(5) < rng.integers(1, 6, (4, 1))
    other = {"clip": 0.2, "reference": reference, "kl": kl}
    given = np.where(mask, new, 1e6)  # what is masked may be anything
    loss, slope = jax.value_and_grad(
        lambda x: policy_loss(x, old, advantage, 1.0 * mask, **other)[0]
    )(jnp.float32(given))
    plain = plain_loss(new, old, advantage, mask, **other)
    np.testing.assert_allclose(loss, plain, rtol=1e-4, atol=1e-5)
    i, t = rng.integers(4), 0
    step = np.zeros_like(new)
    step[i, t] = 1e-5
    ends = [plain_loss(new + sign * step, old, advantage, mask, **other) for sign in (1, -1)]
    np.testing.assert_allclose(slope[i, t], (ends[0] - ends[1]) / 2e-5, rtol=1e-2, atol=1e-4)
    assert (np.asarray(slope)[~mask] == 0).all()


def test_a_clipped_choice_has_no_gradient():
    old, mask = np.zeros((2, 1)), np.ones((2, 1))
    far = jnp.array([[0.5], [-0.5]])  # further than the clip, each where its advantage led it
    loss = lambda x, gain: policy_loss(x, old, np.array(gain), mask, clip=0.2)  # noqa: E731
    for gain, clipped in (((1.0, -1.0), 1.0), ((-1.0, 1.0), 0.0)):
        slope, metrics = jax.grad(loss, has_aux=True)(far, gain)
        assert bool((slope == 0).all()) == bool(clipped)
        assert float(metrics["clipped"]) == clipped


def takes(seed, count=8):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 18, rng.integers(2, 8)) for _ in range(count)]
    codes = [rng.integers(0, CODES, rng.integers(0, 9)) for _ in range(count)]
    return prompts, codes, list(rng.random(count) < 0.7)


def batch_of(prompts, codes, ended):
    where = {"first_code": FIRST, "end": CODES, "row": RUN.row, "most": RUN.codes}
    return policy_batch(prompts, codes, ended, **where)


def test_log_probabilities_are_those_of_a_full_pass_over_codes_and_end():
    model = Decoder(LM, rngs=nnx.Rngs(0))
    prompts, codes, ended = takes(0)
    batch = batch_of(prompts, codes, ended)
    found = np.asarray(jax.jit(lambda given: log_probabilities(model, given, RUN, ROWS))(batch))
    whole = np.zeros((len(prompts), 16), np.int32)
    for b, (prompt, own) in enumerate(zip(prompts, codes, strict=True)):
        whole[b, : len(prompt) + len(own)] = [*prompt, *(own + FIRST)]
    places = np.broadcast_to(np.arange(16), whole.shape)
    logits = jax.jit(lambda ids: model.logits(model.hidden(ids, places)))(whole)
    logits = np.asarray(logits)[..., np.asarray(ROWS)] / RUN.temperature
    nats = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    seen = 0
    for b, (prompt, own, stopped) in enumerate(zip(prompts, codes, ended, strict=True)):
        expected = nats[b, len(prompt) - 1 :]
        chosen = [*own, CODES] if stopped else [*own]
        count = min(len(chosen), RUN.codes, RUN.row - len(prompt) + 1)
        assert batch["mask"][b].sum() == count
        for t in range(count):
            assert float(found[b, t]) == pytest.approx(float(expected[t, chosen[t]]), abs=1e-5)
            seen += 1
    assert seen > 20


class Rollouts:
    """Draws three choices of the policy after a fixed prompt; code 2 is what is wanted."""

    prompt = np.array([3, 5, 9])

    def __init__(self):
        self.kept, self.drawn = {}, []
        graphdef, _ = nn.abstract(lambda rngs: Decoder(LM, rngs=rngs))
        self.model = lambda params: nn.merge(graphdef, params)
        self.score = jax.jit(lambda p, b: log_probabilities(self.model(p), b, RUN, ROWS))

        def logits(params, ids):
            model = self.model(params)
            hidden = model.hidden(ids, jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape))
            return model.logits(hidden[:, -1])[:, ROWS[:CODES]] / RUN.temperature

        self.logits = jax.jit(logits)

    def __call__(self, params, step):
        number, part = divmod(step, RUN.updates)
        if part == 0:
            self.drawn.append(number)
            self.kept[number] = self.draw(params, number)
        return {k: x[part * 8 :][:8] for k, x in self.kept[number].items()}

    def draw(self, params, number):
        ids, rng = np.tile(self.prompt, (16, 1)), np.random.default_rng(number)
        for _ in range(3):
            noise = rng.gumbel(size=(16, CODES))
            chosen = np.argmax(np.asarray(self.logits(params, ids)) + noise, axis=1)
            ids = np.concatenate([ids, chosen[:, None] + FIRST], axis=1)
        codes = ids[:, 3:] - FIRST
        batch = batch_of([self.prompt] * 16, list(codes), [False] * 16)
        rewards = (codes == 2).mean(1)
        batch["rewards"] = np.float32(rewards)
        batch["advantages"] = np.float32(advantages(rewards.reshape(2, 8)).reshape(-1))
        batch["old"] = np.asarray(self.score(params, batch))
        return batch


def train(folder, rollouts):
    params = jax.device_get(nn.split(Decoder(LM, rngs=nnx.Rngs(1)))[1])
    return fit(grpo_objective(RUN, ROWS, params), rollouts, RUN.train, folder, seed=0)


def test_the_reward_rises_and_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    rollouts = Rollouts()
    whole = train(tmp_path / "whole", rollouts)
    rewards = [row["reward"] for row in whole.curve if row["step"] % 2 == 0]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.2
    assert {"clipped", "nats", "grad_norm"} < set(whole.curve[0])
    for step in (10, 12):  # as if it had been killed after 5 steps, in the midst of a rollout
        shutil.rmtree(tmp_path / "whole/checkpoints" / str(step))
    drawn, rollouts.drawn = rollouts.drawn, []
    rollouts.kept = {2: rollouts.kept[2]}  # as if read from a disk
    again = train(tmp_path / "whole", rollouts)
    assert drawn == [0, 1, 2, *rollouts.drawn] and rollouts.drawn == [3, 4, 5]
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.params, again.params))
    bare = lambda row: {k: v for k, v in row.items() if k not in TIMED}  # noqa: E731
    assert list(map(bare, again.curve)) == list(map(bare, whole.curve))


def test_settings_that_do_not_fit_are_refused():
    for wrong, message in (
        ({"group": 7}, "group: 128 takes of a rollout are no whole number of 7"),
        ({"group": 1}, "a group of at least 2"),
        ({"clip": 1.5}, "clip: in"),
        ({"select": (SelectConfig(),)}, "each with the `least` that a failed take gets"),
        ({"temperature": 0.0}, "temperature: must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            GrpoRun(**({"train": TrainConfig(batch=128)} | wrong))
