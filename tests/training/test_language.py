from dataclasses import replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import (
    DecoderConfig,
    DecoderRun,
    GuideConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
)
from llasa_jax.data.batches import by_step
from llasa_jax.data.pipeline import collate
from llasa_jax.data.shards import Row
from llasa_jax.lm.blank import blank_texts
from llasa_jax.lm.guide import exchange_texts
from llasa_jax.training.language import (
    code_rows,
    language_objective,
    row_work,
    validation_nats,
)
from llasa_jax.training.loop import fit
from llasa_jax.training.step import gradient_of

ROW = 24
RUN = DecoderRun(
    lm=DecoderConfig(
        dim=16,
        ffn=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        text_vocab=20,
        codes=12,
        vocab_multiple=16,
    ),
    train=TrainConfig(
        steps=40, batch=2, optimizer=OptimizerConfig(peak=0.02), log_every=5, save_every=40
    ),
    row=ROW,
    loss_chunk=7,
)


def example(seed, length):
    """Ids that count upwards among the codes, after a text of three ids that is not learned."""
    rng = np.random.default_rng(seed)
    codes = 28 + (rng.integers(12) + np.arange(length - 3)) % 12
    ids = np.concatenate([rng.integers(0, 20, 3), codes]).astype(np.int32)
    return ids, np.arange(length) >= 3


def row(*examples):
    lengths = np.array([len(ids) for ids, _ in examples])
    ids, learned = (np.concatenate(parts) for parts in zip(*examples, strict=True))
    return Row(lengths, ids, learned)


@pytest.fixture(scope="module")
def objective():
    return language_objective(RUN, (4, 3))


@pytest.fixture(scope="module")
def params(objective):
    """Random parameters, larger than the initial ones: every position's loss is another."""
    template = jax.eval_shape(objective.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), template)


@pytest.fixture(scope="module")
def nats(objective, params):
    """Mean nats of one batch of two rows."""
    loss = jax.jit(objective.loss)
    return lambda *rows: float(loss(params, collate(rows, ROW), jax.random.key(0))[0])


def test_packed_examples_have_the_loss_of_each_alone(nats):
    some = [example(0, 9), example(1, 15), example(2, 7), example(3, 11)]
    empty = row((np.zeros(0, np.int32), np.zeros(0, bool)))
    weights = [len(ids) - 3 for ids, _ in some]
    each = [nats(row(item), empty) for item in some]
    assert np.std(each) > 0.1
    packed = nats(row(*some[:2]), row(*some[2:]))
    np.testing.assert_allclose(packed, np.average(each, weights=weights), rtol=1e-5)


def test_validation_weighs_every_learned_token_alike(nats, params):
    long, short = row(example(0, 24)), row(example(1, 5))
    batches = grain.MapDataset.source([collate([item, item], ROW) for item in (long, short)])
    found = validation_nats(RUN, batches, lambda batch: batch)(params, 0)["nats"]
    apart = [nats(item, item) for item in (long, short)]
    np.testing.assert_allclose(found, np.average(apart, weights=[21, 2]), rtol=1e-5)


def test_what_is_not_learned_is_no_target(nats):
    """The text's ids change the loss through attention alone; the last of them is position 2."""
    ids, learned = example(0, 9)
    batch = collate([row((ids, learned))], ROW)
    assert batch["weights"].sum() == 6 and batch["weights"][0, 2:8].all()
    everything = nats(*[row((ids, np.ones(9, bool)))] * 2)
    assert everything != nats(*[row((ids, learned))] * 2)


def test_a_language_model_learns(objective, params, tmp_path):
    def batch(step):
        return collate(
            [row(example(3 * step, 12), example(3 * step + 1, 12)), row(example(3 * step + 2, 20))],
            ROW,
        )

    start = jax.tree.map(lambda leaf: leaf / 4, params)  # the real start takes long to compile
    objective = replace(objective, init=lambda key: start)
    fitted = fit(objective, by_step(batch), RUN.train, tmp_path, seed=0)
    first, last = fitted.curve[0]["nats"], fitted.curve[-1]["nats"]
    assert first > 0.8 * np.log(40) and last < 0.5 * first


def test_the_work_of_rows_by_hand():
    """Two sequences of 9 and 15 tokens in one row, padding in the other: 24 tokens."""
    batch = collate([row(example(0, 9), example(1, 15)), row((np.zeros(0, int), []))], ROW)
    lm = RUN.lm
    layer = 4 * 16 * 8 * (2 + 1) + 6 * 16 * 32
    pairs = (9**2 + 15**2) / 2  # of a query and a key
    matrices, attention = lm.layers * 24 * layer, lm.layers * 4 * pairs * 2 * 8
    head = 24 * 2 * 16 * lm.vocab
    found = row_work(lm, batch)
    assert found.tokens == 24
    np.testing.assert_allclose(found.flops_without_head, 3 * (matrices + attention))
    np.testing.assert_allclose(found.flops, 3 * (matrices + attention + head))
    adapters = row_work(replace(lm, lora=LoraConfig()), batch)
    np.testing.assert_allclose(adapters.flops, 2 * (matrices + head) + 3 * attention)


def test_codes_that_share_digits_start_alike():
    rows = np.asarray(code_rows(jax.random.key(0), (4, 4, 4, 4), 64))
    assert rows.shape == (256, 64)
    np.testing.assert_allclose(rows.std(), 0.02, rtol=0.1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    one_digit_apart, all_apart = unit[0] @ unit[1], unit[0] @ unit[1 + 4 + 16 + 64]
    assert one_digit_apart > 0.5 > 0.3 > abs(all_apart)


def test_gradients_of_products_in_bfloat16_lose_nothing(params):
    """Taken of the cast matrices they are, to the bit, those of the matrices that are cast."""
    run = replace(RUN, lm=replace(RUN.lm, compute_dtype="bfloat16"))
    objective = language_objective(run, (4, 3))
    batch = collate([row(example(1, 20)), row(example(2, 24))], ROW)
    key = jax.random.key(0)
    inside = jax.jit(gradient_of(objective.loss, lambda params: params))(params, batch, key)
    outside = jax.jit(gradient_of(objective.loss, objective.working))(params, batch, key)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(objective.working(params)["layers"])}
    assert dtypes == {np.dtype("float32"), jax.numpy.bfloat16.dtype}
    for one, other in zip(jax.tree.leaves(inside), jax.tree.leaves(outside), strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(one, other)


GUIDED = replace(RUN, guide=GuideConfig(layers=(1,), head=1, weight=0.5, until=0.8))


def spoken(seed):
    """Three letters, then seven codes, between the template's tags."""
    rng = np.random.default_rng(seed)
    text, codes = rng.integers(0, 20, 3), rng.integers(28, 40, 7)
    ids = np.concatenate([[22], text, [23, 24], codes, [25]]).astype(np.int32)
    return ids, np.arange(len(ids)) >= 6


def test_a_guide_adds_its_share_of_the_loss_and_no_parameter(objective, params):
    guided = language_objective(GUIDED, (4, 3))
    assert objective.scheduled(0.5) == {}
    weights = [guided.scheduled(progress)["guide"] for progress in (0.0, 0.4, 0.9)]
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.0])
    key, batch = jax.random.key(0), collate([row(spoken(0)), row(spoken(1))], ROW)
    plain, _ = jax.jit(objective.loss)(params, batch, key)
    loss, found = jax.jit(guided.loss)(params | guided.scheduled(0.4), batch, key)
    np.testing.assert_allclose(loss, plain + 0.25 * found["guide"], rtol=1e-5)
    np.testing.assert_allclose(found["nats"], plain, rtol=1e-5)
    shapes = [jax.eval_shape(one.init, key) for one in (objective, guided)]
    assert shapes[0] == shapes[1]
    assert found["guide"] > 0.1


def test_a_guide_moves_its_head_and_what_comes_before(params):
    guided = language_objective(GUIDED, (4, 3))
    batch = collate([row(spoken(0)), row(spoken(1))], ROW)

    @jax.jit
    @jax.grad
    def slopes(params, weight):
        return guided.loss(params | {"guide": weight}, batch, jax.random.key(0))[0]

    by_guide = jax.tree.map(np.subtract, slopes(params, 1.0), slopes(params, 0.0))
    attention = by_guide["layers"]["layers"]["attention"]
    share = np.abs(attention["q"]).max((0, 1, 3)), np.abs(attention["q"]).max((1, 2, 3))
    assert share[1].min() > 1e-3  # of both layers
    np.testing.assert_allclose(attention["q"][1, :, 0], 0, atol=1e-5)  # the other head of layer 1
    assert np.abs(attention["q"][1, :, 1]).max() > 1e-3
    np.testing.assert_allclose(attention["out"][1], 0, atol=1e-5)  # which comes after
    np.testing.assert_allclose(by_guide["norm"]["scale"], 0, atol=1e-5)


def test_a_guided_head_learns_the_diagonal(params, tmp_path):
    def batch(step):
        return collate([row(spoken(2 * step)), row(spoken(2 * step + 1))], ROW)

    start = jax.tree.map(lambda leaf: leaf / 4, params)
    guided = replace(language_objective(GUIDED, (4, 3)), init=lambda key: start)
    fitted = fit(guided, by_step(batch), RUN.train, tmp_path, seed=0)
    assert fitted.curve[-1]["guide"] < 0.6 * fitted.curve[0]["guide"]


def test_a_guided_run_validates_what_the_text_is_worth(params):
    batch = collate([row(spoken(0)), row(spoken(1))], ROW)
    batches = grain.MapDataset.source([batch])
    found = validation_nats(GUIDED, batches, lambda batch: batch)(params, 0)
    tokens = exchange_texts(batch["tokens"], RUN.lm.text_vocab)
    assert (tokens != batch["tokens"]).any()
    true, other = (
        validation_nats(RUN, grain.MapDataset.source([one]), lambda batch: batch)(params, 0)
        for one in (batch, batch | {"tokens": np.asarray(tokens)})
    )
    assert list(true) == ["nats"] and found["nats"] == true["nats"]
    np.testing.assert_allclose(found["text"], other["nats"] - true["nats"], atol=1e-5)


def test_a_share_of_the_examples_is_learned_with_a_blank_text(objective, params):
    batch = collate([row(spoken(0)), row(spoken(1))], ROW)
    key = jax.random.key(3)
    given = [jnp.asarray(batch[name]) for name in ("tokens", "segments", "weights")]
    blank = blank_texts(key, *given, share=0.5, text_vocab=RUN.lm.text_vocab)
    loss = jax.jit(language_objective(replace(RUN, blank_texts=0.5), (4, 3)).loss)
    expected = jax.jit(objective.loss)(params, batch | {"tokens": blank}, key)[0]
    np.testing.assert_allclose(loss(params, batch, key)[0], expected, rtol=1e-6)
