"""A shuffled order that needs no memory: any place of any epoch is computed alone.

A Feistel network permutes a power of four of numbers; those outside the wanted range are sent
through again until they fall inside (cycle walking; Black and Rogaway 2002).
"""

import numpy as np

ROUNDS = 6


def permute(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where each place stands in the permutation of 0..size - 1 that its key names.

    Args:
        places: int [n], each in 0..size - 1.
        keys: uint64 [n]; equal keys are one permutation.

    Returns:
        int64 [n].
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    found = np.asarray(places).astype(np.uint64)
    outside = np.arange(len(found))
    while outside.size:
        found[outside] = _feistel(found[outside], np.uint64(half), keys[outside])
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers of 2 * `half` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(right ^ mix(keys + np.uint64(number))) & mask)
    return (left << half) | right


def mix(values: np.ndarray) -> np.ndarray:
    """Splitmix64's finaliser (Steele et al. 2014): uint64 to uint64, every bit depends on all."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
