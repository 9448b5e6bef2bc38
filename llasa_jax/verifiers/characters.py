"""Characters of a recogniser: alphabet, text to ids and back. Id 0 is CTC's blank and padding."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def alphabet_of(texts: Iterable[str], minimum: int = 10) -> str:
    """The characters of normalised `texts`, sorted; those seen under `minimum` times are left out
    (a stray word in another script is no reason for an output)."""
    counts = Counter(character for text in texts for character in text)
    return "".join(sorted(c for c, count in counts.items() if count >= minimum))


def readable(text: str, normalised: str, alphabet: str) -> bool:
    """Whether letters say all that is spoken: no digits, no character outside the alphabet."""
    return (
        bool(normalised)
        and not any(character.isdigit() for character in text)
        and set(normalised) <= set(alphabet)
    )


def encode(normalised: str, alphabet: str) -> np.ndarray:
    """Ids from 1, int32 [characters]; characters outside the alphabet are left out."""
    ids = [alphabet.find(character) + 1 for character in normalised]
    return np.array([i for i in ids if i], np.int32)


def collapse(ids: Sequence[int], alphabet: str) -> str:
    """Text of one greedy CTC path: equal neighbours are one, blanks are none."""
    path = np.asarray(ids)
    kept = path[(path > 0) & (path != np.concatenate([[0], path[:-1]]))]
    return " ".join("".join(alphabet[i - 1] for i in kept).split())
