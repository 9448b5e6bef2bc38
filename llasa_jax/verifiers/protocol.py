"""What a verifier is: candidates and a reference in, one score a candidate out.

A verifier is pure and jittable, and its scores are batched over the candidates. Its
weights are an argument of the call, never a constant of the compiled program. `score_all` runs
several verifiers on the same candidates in one compiled call. A causal one may also score step by
step, with a state that the caller keeps (`Steps`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from llasa_jax.errors import UserError


class Candidates(NamedTuple):
    """N candidates of one utterance, padded on the right.

    Attributes:
        codes: int32 [N, T] codec codes.
        waves: float32 [N, samples] in [-1, 1].
        lengths: int32 [N] valid samples of each wave.
    """

    codes: jax.Array
    waves: jax.Array
    lengths: jax.Array


class Steps(NamedTuple):
    """How a causal verifier goes on from step to step of a beam, without hearing anything twice.

    Its state is a tree of arrays whose first axis is the candidates': a beam that keeps some of
    them, or several times the same, picks their rows (`pick_rows`).

    Attributes:
        start: (params, candidates, codes) -> the state of so many candidates of which nothing is
            heard yet, with room for so many codes each: a whole number of steps.
        hear: (params, state, codes int32 [N, M], counts int32 [N]) -> the state after the first
            `counts` of M further codes of each; pure, jittable.
        score: (params, state, reference) -> float32 [N], that of all codes heard; pure, jittable.
    """

    start: Callable[[dict, int, int], Any]
    hear: Callable[[dict, Any, jax.Array, jax.Array], Any]
    score: Callable[[dict, Any, jax.Array], jax.Array]


def pick_rows(state: Any, rows: jax.Array) -> Any:
    """The state of the candidates `rows`, int32 [N]."""
    return jax.tree.map(lambda leaf: leaf[rows], state)


@dataclass(frozen=True)
class Verifier:
    """A model that scores candidates.

    Attributes:
        name: unique; a judge of another name must report on what this verifier selected.
        params: the model's weights.
        score: (params, candidates, reference) -> float32 [N], higher is better; pure, jittable.
        reference: (text, wave float32 [samples] or None) -> the array that `score` compares with.
        steps: how it scores a beam's candidates step by step, if it can.
        rate: of the waves that it hears, a second; None if it hears none.
    """

    name: str
    params: dict
    score: Callable[[dict, Candidates, jax.Array], jax.Array]
    reference: Callable[[str, np.ndarray | None], np.ndarray]
    steps: Steps | None = None
    rate: int | None = None


@partial(jax.jit, static_argnums=0)
def _score_all(scores: tuple, params: tuple, candidates: Candidates, references: tuple) -> tuple:
    return tuple(
        score(one, candidates, reference)
        for score, one, reference in zip(scores, params, references, strict=True)
    )


def score_all(
    verifiers: Sequence[Verifier], candidates: Candidates, references: Sequence[np.ndarray]
) -> Mapping[str, jax.Array]:
    """Scores by verifier name, float32 [N] each, from one compiled call.

    Args:
        references: one of each verifier, made by its `reference`.
    """
    scores = _score_all(
        tuple(one.score for one in verifiers),
        tuple(one.params for one in verifiers),
        candidates,
        tuple(references),
    )
    return dict(zip([one.name for one in verifiers], scores, strict=True))


def ensure_rate(verifiers: Sequence[Verifier], rate: int) -> None:
    """Verifiers hear waves of their own rate: at another one, every score would be wrong.

    Raises:
        UserError: if one hears another rate than the candidates' waves have.
    """
    for one in verifiers:
        if one.rate not in (None, rate):
            raise UserError(
                f"verifier {one.name}: hears {one.rate} Hz, the codec writes {rate}; take a codec "
                "or a verifier of the other's rate"
            )


def ensure_judge_differs(selection_names: Sequence[str], judge_name: str) -> None:
    """A judge must have taken no part in the selection.

    Raises:
        UserError: if the judge is one of the verifiers used for selection.
    """
    if judge_name in selection_names:
        raise UserError(
            f"judge {judge_name}: it already selected the candidates; name another judge or "
            "select without it"
        )
