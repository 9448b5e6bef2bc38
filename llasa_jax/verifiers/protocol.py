"""What a verifier is: candidates and a reference in, one score a candidate out.

A verifier is pure, stateless and jittable, and its scores are batched over the candidates. Its
weights are an argument of the call, never a constant of the compiled program. `score_all` runs
several verifiers on the same candidates in one compiled call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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


@dataclass(frozen=True)
class Verifier:
    """A model that scores candidates.

    Attributes:
        name: unique; a judge of another name must report on what this verifier selected.
        params: the model's weights.
        score: (params, candidates, reference) -> float32 [N], higher is better; pure, jittable.
        reference: (text, wave float32 [samples] or None) -> the array that `score` compares with.
    """

    name: str
    params: dict
    score: Callable[[dict, Candidates, jax.Array], jax.Array]
    reference: Callable[[str, np.ndarray | None], np.ndarray]


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
