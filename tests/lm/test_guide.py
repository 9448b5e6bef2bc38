import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import DecoderConfig, DecoderRun, GuideConfig
from llasa_jax.data.pipeline import collate
from llasa_jax.data.shards import Row
from llasa_jax.errors import UserError
from llasa_jax.lm.guide import SPEECH, TEXT, exchange_texts, guide_loss, kinds
from llasa_jax.lm.vocabulary import nano_vocabulary

CODES, SIGMA = 12, 0.15
VOCABULARY = nano_vocabulary(CODES)
EXAMPLES = [
    ("generation", "ab cd", [3, 1, 4, 1, 5, 9, 2]),
    ("understanding", "hello", [2, 7, 1]),
    ("generation", "x", [6, 5]),
]


def packed(*examples):
    """One row of whole examples, as training takes it."""
    made = [VOCABULARY.example(text, codes, kind) for kind, text, codes in examples]
    lengths = np.array([len(ids) for ids, _ in made])
    ids, weights = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return collate([Row(lengths, ids, weights > 0)], int(lengths.sum()) + 5)


def heads(batch, seed=0, count=2, size=8):
    rng = np.random.default_rng(seed)
    shape = (count, *batch["tokens"].shape, size)
    return tuple(2 * rng.normal(size=shape).astype(np.float32) for _ in range(2))


def loss(q, k, batch, **settings):
    given = (batch["tokens"], batch["segments"], batch["weights"])
    settings = {"text_vocab": VOCABULARY.text_vocab, "sigma": SIGMA} | settings
    return guide_loss(q, k, *given, **settings)


def by_hand(q, k, examples, unseen=None):
    """The formula, query by query, of heads [G, 1, S, H] over a packed row."""
    nats, start = [], 0
    for kind, text, codes in examples:
        ids, _ = VOCABULARY.example(text, codes, kind)
        n_text, n_codes = len(text.encode()), len(codes)
        speech = int(np.flatnonzero(ids >= VOCABULARY.first_code)[0])
        text_tag = "UNDERSTANDING" if kind == "generation" else "GENERATION"
        tag = VOCABULARY.tokenizer.token_to_id(f"<|TEXT_{text_tag}_START|>")
        letters = int(np.flatnonzero(ids == tag)[0]) + 1
        given, made = ((letters, n_text), (speech, n_codes))[:: 1 if kind == "generation" else -1]
        for head_q, head_k in zip(q[:, 0], k[:, 0], strict=True):
            for t in range(made[1]):
                place = made[0] + t - 1  # which predicts the t-th
                scores = head_k[start : start + place + 1] @ head_q[start + place]
                attention = np.exp(scores / np.sqrt(q.shape[-1]))
                attention[ids[: place + 1] == unseen] = 0
                attention /= attention.sum()
                n = np.arange(given[1])
                apart = (n + 0.5) / given[1] - (t + 0.5) / made[1]
                band = np.exp(-(apart**2) / (2 * SIGMA**2))
                nats.append(-np.log(attention[given[0] + n] @ band))
        start += len(ids)
    return np.mean(nats)


def test_every_id_has_its_kind():
    batch = packed(*EXAMPLES)
    found = np.asarray(kinds(batch["tokens"], VOCABULARY.text_vocab))[0]
    tokens = batch["tokens"][0]
    assert [VOCABULARY.tokenizer.decode([i]) for i in tokens[found == TEXT]] == list("ab cdhellox")
    codes = [code for _, _, codes in EXAMPLES for code in codes]
    assert VOCABULARY.codes(tokens[found == SPEECH]).tolist() == codes


@pytest.mark.parametrize("examples", [EXAMPLES[:1], EXAMPLES[1:2], EXAMPLES])
@pytest.mark.parametrize("unseen", [None, VOCABULARY.eot])
def test_the_loss_is_the_formula(examples, unseen):
    batch = packed(*examples)
    q, k = heads(batch)
    expected = by_hand(q, k, examples, unseen)
    np.testing.assert_allclose(loss(q, k, batch, unseen=unseen), expected, rtol=1e-5)


def test_packed_examples_do_not_mix():
    """The slopes of an example's heads are the same whatever stands before it in the row."""
    slopes = jax.grad(lambda qk, batch: loss(*qk, batch))
    batch, alone = packed(*EXAMPLES), packed(EXAMPLES[1])
    q, k = heads(batch)
    start = int((batch["segments"] == 1).sum())
    here = slice(start, start + int((batch["segments"] == 2).sum()))
    found = slopes((q, k), batch)
    pad = ((0, 0), (0, 0), (0, 5), (0, 0))
    expected = slopes(tuple(np.pad(x[:, :, here], pad) for x in (q, k)), alone)
    letters, all_made = len("hello"), sum((7, 5, 2))
    for one, other in zip(found, expected, strict=True):
        other = other[:, :, :-5] * letters / all_made
        np.testing.assert_allclose(one[:, :, here], other, atol=1e-7)
    assert np.abs(found[0]).max() > 1e-3
    assert not np.asarray(found[0])[:, batch["segments"] == 0].any()


def test_attention_along_the_diagonal_costs_nearly_nothing():
    text, codes = "abcdefgh", [1, 2, 3, 4, 5, 6, 7, 8]
    batch = packed(("generation", text, codes))
    kind = np.asarray(kinds(batch["tokens"], VOCABULARY.text_vocab))
    q, k = np.zeros((2, 1, 1, batch["tokens"].shape[1], 8), np.float32)
    k[0, kind == TEXT] = np.eye(8)
    q[0, np.roll(kind == SPEECH, -1, 1)] = 100 * np.eye(8)
    assert loss(q, k, batch) < 1e-4 < 1 < loss(np.roll(q, 4, -1), k, batch)


def test_rows_without_speech_are_not_guided():
    ids, weights = VOCABULARY.chat([("user", "hello"), ("assistant", "there")])
    batch = collate([Row(np.array([len(ids)]), ids, weights > 0)], len(ids) + 3)
    value, slopes = jax.value_and_grad(lambda qk: loss(*qk, batch))(
        tuple(map(jnp.asarray, heads(batch)))
    )
    assert value == 0 and not any(np.asarray(x).any() for x in slopes)


def test_a_guide_of_heads_that_are_not_there_is_refused():
    with pytest.raises(UserError, match="2 layers of 4 heads"):
        DecoderRun(lm=DecoderConfig(layers=2, heads=4), guide=GuideConfig(layers=(2,)))


def test_exchanged_texts_keep_their_places():
    batch = packed(*EXAMPLES)
    kind = np.asarray(kinds(batch["tokens"], VOCABULARY.text_vocab))
    found = np.asarray(exchange_texts(batch["tokens"], VOCABULARY.text_vocab))
    letters = batch["tokens"][kind == TEXT]
    np.testing.assert_array_equal(found[kind == TEXT], np.roll(letters, -(len(letters) // 2)))
    np.testing.assert_array_equal(found[kind != TEXT], batch["tokens"][kind != TEXT])
