"""N-gram models of code sequences: what a language model must beat to have learned anything.

A sequence of codes is extended by END (index `codes`) as a target and by a start symbol as the
first context. Both models are proper distributions over codes and END.
"""

from collections.abc import Sequence

import numpy as np

# Where the counts of counts leave a discount undefined or out of range (Heafield's lmplz).
_FALLBACK = (0.5, 1.0, 1.5)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What to take off counts of 0, 1, 2 and 3 or more: float64 [4].

    Chen and Goodman 1999, equation 26, from the numbers of events n1 ... n4 that occur 1 ... 4
    times: D_k = k - (k + 1) Y n_{k+1} / n_k with Y = n1 / (n1 + 2 n2).
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    discounts = [0.0]
    for k, fallback in enumerate(_FALLBACK, start=1):
        y = n[1] / max(n[1] + 2 * n[2], 1)
        value = k - (k + 1) * y * n[k + 1] / n[k] if n[1] and n[k] else fallback
        discounts.append(value if 0 < value <= k else fallback)
    return np.array(discounts)


def _discounted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts after modified Kneser-Ney discounting and what was taken off, float64, same shape."""
    taken = _discounts(counts)[np.minimum(counts, 3)]
    return counts - taken, taken


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Distribution [V] from counts [V]: discounted, the rest spread evenly over all V."""
    kept, taken = _discounted(counts)
    return (kept + taken.sum() / len(counts)) / counts.sum()


def _events(sequences: Sequence[np.ndarray], codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and targets of all sequences, int64 [events] each; `codes` is start and END."""
    edge = np.array([codes])
    contexts = [np.concatenate([edge, sequence]) for sequence in sequences]
    targets = [np.concatenate([sequence, edge]) for sequence in sequences]
    if not targets:
        raise ValueError("n-gram model: there are no sequences")
    context, target = (np.concatenate(x).astype(np.int64) for x in (contexts, targets))
    if target.min() < 0 or target.max() > codes or (target == codes).sum() != len(targets):
        raise ValueError(f"n-gram model: a code is not in [0, {codes})")
    return context, target


class Unigram:
    """p(code): absolute discounting of the training counts, interpolated with uniform.

    Args:
        sequences: training sequences, integers [length] each.
        codes: the codebook's size.
    """

    def __init__(self, sequences: Sequence[np.ndarray], codes: int):
        _, target = _events(sequences, codes)
        self.codes = codes
        self.distribution = _smoothed(np.bincount(target, minlength=codes + 1))

    def probability(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """p(target), float64 [...]; the context is not used."""
        return np.broadcast_to(self.distribution[target], np.broadcast(context, target).shape)


class Bigram:
    """p(code | code before): interpolated modified Kneser-Ney (Chen and Goodman 1999, section 4).

    p(w | h) = (c(hw) - D(c(hw))) / c(h) + g(h) p1(w), where g(h) is what was taken off in context
    h and p1 is the continuation distribution (in how many contexts w follows, itself discounted
    and interpolated with uniform). An unseen context gives p1.

    Args:
        sequences: training sequences, integers [length] each.
        codes: the codebook's size.
    """

    def __init__(self, sequences: Sequence[np.ndarray], codes: int):
        context, target = _events(sequences, codes)
        self.codes, size = codes, codes + 1
        self._pairs, counts = np.unique(context * size + target, return_counts=True)
        contexts, targets = np.divmod(self._pairs, size)
        self._kept, taken = _discounted(counts)
        self._total = np.bincount(context, minlength=size)
        self._taken = np.bincount(contexts, taken, minlength=size)
        self.continuation = _smoothed(np.bincount(targets, minlength=size))

    def probability(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """p(target | context), float64 [...], arguments broadcast; `codes` is start and END."""
        context, target = np.broadcast_arrays(context, target)
        key = context.astype(np.int64) * (self.codes + 1) + target
        place = np.minimum(np.searchsorted(self._pairs, key), len(self._pairs) - 1)
        kept = np.where(self._pairs[place] == key, self._kept[place], 0.0)
        total, lower = self._total[context], self.continuation[target]
        seen = (kept + self._taken[context] * lower) / np.maximum(total, 1)
        return np.where(total > 0, seen, lower)


def cross_entropy(model: Unigram | Bigram, sequences: Sequence[np.ndarray]) -> float:
    """Nats for each code (END counts as one) of `sequences` under the model.

    Raises:
        ValueError: if there are no sequences or a code is not in the codebook.
    """
    context, target = _events(sequences, model.codes)
    return float(-np.log(model.probability(context, target)).mean())
