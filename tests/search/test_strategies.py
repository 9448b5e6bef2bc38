import functools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.search.record import search_record
from llasa_jax.search.strategies import (
    Pool,
    best_of,
    combined,
    first_accepted,
    join,
    pareto_best,
    pareto_front,
    ranking,
    threshold_then_rank,
    worth_learning,
)
from llasa_jax.search.take import Take


def pool(scores, statuses=None):
    size = len(next(iter(scores.values())))
    takes = [Take(np.arange(i + 1), True, -2.0 * i) for i in range(size)]
    waves = [np.zeros(320 * (i + 1), np.float32) for i in range(size)]
    arrays = {name: np.array(values) for name, values in scores.items()}
    return Pool("hello", takes, waves, statuses or ["ok"] * size, arrays)


def test_one_verifier_keeps_its_best():
    assert ranking(pool({"a": [1.0, 3.0, 2.0]}), {"a": 1.0}) == [1, 2, 0]
    assert ranking(pool({"a": [1.0, 3.0, 2.0]}), {"a": -1.0}) == [0, 2, 1]


def test_scales_do_not_matter_but_weights_do():
    scores = {"wer": [-0.0, -1.0, -2.0], "similarity": [0.001, 0.002, 0.003]}
    assert best_of(pool(scores), {"wer": 2.0, "similarity": 1.0}) == 0
    assert best_of(pool(scores), {"wer": 1.0, "similarity": 2.0}) == 2
    raw = {"wer": 1.0, "similarity": 2.0}
    assert best_of(pool(scores), raw, standardise=False) == 0


def test_failures_rank_last_and_do_not_distort():
    statuses = ["ok", "runaway", "ok", "loop"]
    scores = {"a": [1.0, 9.0, 2.0, 5.0], "b": [2.0, -1e6, 1.9, 0.0]}
    assert ranking(pool(scores, statuses), {"a": 2.0, "b": 1.0})[:2] == [2, 0]
    assert ranking(pool({"a": [1.0, 9.0]}, ["silence", "loop"]), {"a": 1.0}) == [1, 0]


def test_equal_scores_keep_the_first():
    assert best_of(pool({"a": [0.3, 0.3, 0.3]}), {"a": 1.0}) == 0
    assert best_of(pool({"a": [0.3, 0.5]}), {}) == 0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.data())
def test_a_pool_of_n_sees_nothing_of_later_takes(values, data):
    n = data.draw(st.integers(1, len(values)))
    whole = pool({"a": values})
    assert best_of(whole.first(n), {"a": 1.0}) == best_of(pool({"a": values[:n]}), {"a": 1.0})
    kept = values[best_of(whole.first(n), {"a": 1.0})]
    assert kept == pytest.approx(max(values[:n]), abs=1e-5)


def test_wrong_scores_are_refused():
    with pytest.raises(UserError, match="verifier b: gave no scores"):
        combined({"a": [1.0]}, {"b": 1.0})
    with pytest.raises(UserError, match="verifier a: its score of candidate 1 is nan"):
        combined({"a": [1.0, float("nan")]}, {"a": 1.0})


def test_record_is_strict_json():
    found = pool({"a": [1.0, 3.0], "unused": [float("nan"), 1.0]}, ["ok", "loop"])
    record = search_record(
        found, {"a": 1.0}, {1: 0, 2: 0}, strategy="best-of", seconds=1.5, seed=3, settings={"k": 50}
    )
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again == record
    assert record["choices"] == {"1": 0, "2": 0} and record["tokens"] == 5
    assert record["candidates"][0]["scores"] == {"a": 1.0, "unused": None}
    assert record["candidates"][1]["status"] == "loop"


def test_threshold_then_rank_and_the_first_accepted():
    found = pool({"a": [1.0, 3.0, 2.0, 9.0], "b": [5.0, 0.0, 4.0, 9.0]}, ["ok"] * 3 + ["loop"])
    assert threshold_then_rank(found, {"b": 4.0}, {"a": 1.0}) == 2
    assert threshold_then_rank(found, {"b": 8.0}, {"a": 1.0}) == 1  # none: as without
    assert first_accepted(found, {"b": 4.0}) == 0 and first_accepted(found, {"a": 2.5}) == 1
    assert first_accepted(found, {"a": 5.0}) is None
    with pytest.raises(UserError, match="verifier c: gave no scores"):
        first_accepted(found, {"c": 0.0})


def test_the_pareto_front_and_its_most_balanced_take():
    scores = {"a": [0.0, 1.0, 2.0, 3.0, 9.0], "b": [3.0, 0.5, 2.0, 0.0, 9.0]}
    found = pool(scores, ["ok"] * 4 + ["runaway"])
    assert pareto_front(found, ["a", "b"]) == [0, 2, 3]
    assert pareto_best(found, {"a": 1.0, "b": 1.0}) == 2
    assert pareto_front(pool({"a": [1.0, 1.0]}), ["a"]) == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_what_is_not_on_the_front_is_beaten_by_what_is(pairs):
    table = np.array(pairs, float)
    front = pareto_front(pool({"a": table[:, 0], "b": table[:, 1]}), ["a", "b"])
    for i, one in enumerate(table):
        beaten = any((x >= one).all() and (x > one).any() for x in table[front])
        assert beaten != (i in front)


def test_budgets_and_mixtures():
    found = pool({"a": [1.0, 3.0, 2.0]})  # 2, 3 and 4 tokens
    assert found.tokens == 9
    sizes = [len(found.within(tokens).takes) for tokens in (0, 2, 4, 5, 8, 9, 99)]
    assert sizes == [1, 1, 1, 2, 2, 3, 3]
    other = pool({"a": [5.0]})
    both = join(found, other)
    assert best_of(both, {"a": 1.0}) == 3 and both.tokens == 11 and len(both.waves) == 4


def test_worth_learning_are_the_best_accepted_takes_each_once():
    scores = [-1.0, -0.2, -3.0, -0.2, -0.5, -0.1, -0.4]
    takes = [Take(np.array([i if i != 3 else 1]), True, 0.0) for i in range(7)]
    statuses = ["ok"] * 5 + ["loop", "ok"]
    drawn = Pool("x", takes, [np.zeros(1)] * 7, statuses, {"content": np.array(scores)})
    keep = functools.partial(worth_learning, drawn, {"content": 1.0})
    assert keep({}, most=9) == [1, 6]  # of 1 and 3, which say the same, one; the median is -0.4
    assert keep({}, most=1) == [1]
    assert keep({}, gain=0.1, most=9) == [1]
    assert keep({"content": -0.15}, most=9) == []
