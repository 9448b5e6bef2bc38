"""Causal verifiers of a beam: every code is heard once, however many steps come after it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from llasa_jax.search.take import Take
from llasa_jax.verifiers.protocol import Steps, Verifier, pick_rows


@partial(jax.jit, static_argnums=(0, 2, 3))
def _begun(steps: tuple[Steps, ...], params: tuple, candidates: int, room: int) -> tuple:
    return tuple(s.start(p, candidates, room) for s, p in zip(steps, params, strict=True))


@partial(jax.jit, static_argnums=0)
def _heard(
    steps: tuple[Steps, ...], params: tuple, states: tuple, codes: jax.Array, counts: jax.Array
) -> tuple:
    each = zip(steps, params, states, strict=True)
    return tuple(one.hear(own, state, codes, counts) for one, own, state in each)


@partial(jax.jit, static_argnums=0)
def _scored(steps: tuple[Steps, ...], params: tuple, states: tuple, targets: tuple) -> tuple:
    each = zip(steps, params, states, targets, strict=True)
    return tuple(one.score(own, state, target) for one, own, state, target in each)


class Listener:
    """What verifiers with `Steps` have heard of one text's candidates, kept from step to step.

    Args:
        verifiers: those without steps are left out; `names` says which are left.
        targets: what each verifier compares with.
        candidates: how many there are.
        step: codes that are heard at once.
        most: codes that are heard of a candidate at most.
    """

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        targets: Sequence[np.ndarray],
        candidates: int,
        step: int,
        most: int,
    ):
        pairs = zip(verifiers, targets, strict=True)
        able = [(one, target) for one, target in pairs if one.steps is not None]
        self.names = [one.name for one, _ in able]
        self._steps = tuple(one.steps for one, _ in able)
        self._params = tuple(one.params for one, _ in able)
        self._targets = tuple(target for _, target in able)
        self._counts, self._step = np.zeros(candidates, np.int64), step
        room = (-(-most // step) + 1) * step  # a step is written whole, wherever it begins
        self._states: Any = _begun(self._steps, self._params, candidates, room) if able else ()

    def __call__(self, takes: Sequence[Take]) -> Mapping[str, np.ndarray]:
        """Hears what is new of each candidate; scores of all that was heard, float32 [N] each."""
        if not self.names:
            return {}
        lengths = np.array([len(take.codes) for take in takes])
        while (lengths > self._counts).any():
            counts = np.clip(lengths - self._counts, 0, self._step)
            codes = np.zeros((len(takes), self._step), np.int32)
            for row, (take, count) in enumerate(zip(takes, counts, strict=True)):
                codes[row, :count] = take.codes[self._counts[row] :][:count]
            given = self._states, codes, counts.astype(np.int32)
            self._states = _heard(self._steps, self._params, *given)
            self._counts = self._counts + counts
        scores = _scored(self._steps, self._params, self._states, self._targets)
        return {name: np.asarray(one) for name, one in zip(self.names, scores, strict=True)}

    def fork(self, parents: np.ndarray) -> None:
        """Candidate n goes on from what was heard of candidate `parents[n]`."""
        self._states = pick_rows(self._states, parents)
        self._counts = self._counts[parents]
