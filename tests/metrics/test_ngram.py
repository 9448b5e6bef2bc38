import math
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.metrics.ngram import Bigram, Unigram, cross_entropy

CODES = 12
SEQUENCES = st.lists(st.lists(st.integers(0, CODES - 1), max_size=30), min_size=1, max_size=12)
HELD_OUT = [np.array([0, 1, 1, 5, 11]), np.array([], int), np.array([7])]


def textbook_discount(counts, count):
    """Modified Kneser-Ney discount of one count, written out from Chen and Goodman 1999."""
    n1, n2, n3, n4 = (sum(c == k for c in counts) for k in (1, 2, 3, 4))
    if count == 0:
        return 0
    formula = {
        1: lambda y: 1 - 2 * y * n2 / n1,
        2: lambda y: 2 - 3 * y * n3 / n2,
        3: lambda y: 3 - 4 * y * n4 / n3,
    }
    k = min(count, 3)
    if n1 and (n1, n2, n3)[k - 1]:
        value = formula[k](n1 / (n1 + 2 * n2))
        if 0 < value <= k:
            return value
    return {1: 0.5, 2: 1.0, 3: 1.5}[k]


def textbook(sequences):
    """Slow p(w | h) of an interpolated modified Kneser-Ney bigram; dictionaries and loops."""
    vocabulary = [*range(CODES), "end"]
    pairs = Counter()
    for sequence in sequences:
        marked = ["start", *(int(c) for c in sequence), "end"]
        pairs.update(zip(marked, marked[1:], strict=False))
    before = defaultdict(set)
    for h, w in pairs:
        before[w].add(h)
    follows = {w: len(before[w]) for w in vocabulary}

    def lower(w):
        total = sum(follows.values())
        d = {v: textbook_discount(follows.values(), follows[v]) for v in vocabulary}
        return (follows[w] - d[w]) / total + sum(d.values()) / total / len(vocabulary)

    def probability(w, h):
        after = {v: c for (g, v), c in pairs.items() if g == h}
        if not after:
            return lower(w)
        total = sum(after.values())
        d = {v: textbook_discount(pairs.values(), c) for v, c in after.items()}
        kept = after.get(w, 0) - d.get(w, 0)
        return kept / total + sum(d.values()) / total * lower(w)

    return probability


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_proper_distributions(sequences):
    sequences = [np.array(s, int) for s in sequences]
    contexts, targets = np.arange(CODES + 1)[:, None], np.arange(CODES + 1)
    for model in (Unigram(sequences, CODES), Bigram(sequences, CODES)):
        p = model.probability(contexts, targets)
        assert p.shape == (CODES + 1, CODES + 1)
        assert (p > 0).all()
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)


@given(SEQUENCES)
@settings(max_examples=25, deadline=None)
def test_bigram_equals_the_textbook(sequences):
    sequences = [np.array(s, int) for s in sequences]
    model, slow = Bigram(sequences, CODES), textbook(sequences)
    names = {CODES: "end"}
    for h in range(CODES + 1):
        for w in range(CODES + 1):
            expected = slow(names.get(w, w), {CODES: "start"}.get(h, h))
            assert model.probability(np.array(h), np.array(w)) == pytest.approx(expected)


def test_cross_entropy_equals_the_textbook():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, CODES, n) for n in rng.integers(1, 20, 15)]
    slow = textbook(sequences)
    nats = []
    for sequence in HELD_OUT:
        marked = ["start", *(int(c) for c in sequence), "end"]
        nats += [-math.log(slow(w, h)) for h, w in zip(marked, marked[1:], strict=False)]
    assert len(nats) == 9  # six codes and three ENDs
    expected = sum(nats) / len(nats)
    assert cross_entropy(Bigram(sequences, CODES), HELD_OUT) == pytest.approx(expected)


def test_both_learn_what_there_is_to_learn():
    """On a Markov chain the bigram nears the entropy rate; the unigram nears the marginal's."""
    rng = np.random.default_rng(0)
    codes = 50
    transition = rng.dirichlet(np.full(codes, 0.1), codes)

    def draw(length):
        chain = [int(rng.integers(codes))]
        for _ in range(length - 1):
            chain.append(int(rng.choice(codes, p=transition[chain[-1]])))
        return np.array(chain)

    train, valid = [draw(100) for _ in range(100)], [draw(100) for _ in range(20)]
    rate = -np.mean(
        [math.log(transition[a, b]) for s in valid for a, b in zip(s, s[1:], strict=False)]
    )
    bigram = cross_entropy(Bigram(train, codes), valid)
    unigram = cross_entropy(Unigram(train, codes), valid)
    assert rate - 0.05 < bigram < rate + 0.25
    assert bigram < unigram - 0.5
    assert unigram < math.log(codes + 1)


def test_unigram_beats_add_one_on_a_long_tail():
    rng = np.random.default_rng(0)
    codes = 65_536
    p = 1 / np.arange(1, codes + 1)
    draw = lambda n: rng.choice(codes, n, p=p / p.sum())  # noqa: E731
    train, valid = [draw(250) for _ in range(200)], [draw(250) for _ in range(40)]
    counts = np.bincount(np.concatenate(train), minlength=codes + 1) + 1
    counts[codes] += len(train)
    targets = np.concatenate([*valid, np.full(len(valid), codes)])
    add_one = -np.log(counts / counts.sum())[targets].mean()
    assert cross_entropy(Unigram(train, codes), valid) < add_one - 0.2


def test_fast_at_full_size():
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 65_536, 250) for _ in range(1000)]
    started = time.perf_counter()
    for model in (Unigram(train, 65_536), Bigram(train, 65_536)):
        assert cross_entropy(model, train[:50]) > 0
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("sequences", [[], [np.array([CODES])], [np.array([-1])]])
def test_bad_sequences(sequences):
    with pytest.raises(ValueError, match="n-gram"):
        Bigram(sequences, CODES)
