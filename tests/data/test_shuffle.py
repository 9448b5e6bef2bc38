import numpy as np
import pytest

from llasa_jax.data.shuffle import mix, permute


def keys(value, n):
    return np.full(n, value, np.uint64)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_every_number_once(size):
    for key in (0, 7):
        found = permute(np.arange(size), size, keys(key, size))
        assert sorted(found) == list(range(size))


def test_places_are_independent_of_each_other():
    whole = permute(np.arange(1000), 1000, keys(3, 1000))
    chosen = np.array([999, 0, 500, 500])
    np.testing.assert_array_equal(permute(chosen, 1000, keys(3, 4)), whole[chosen])
    mixed = permute(chosen, 1000, np.array([3, 4, 3, 4], np.uint64))
    assert mixed[0] == whole[999] and mixed[2] == whole[500] != mixed[3]


def test_orders_look_random():
    n = 4096
    a, b = (permute(np.arange(n), n, keys(key, n)) for key in (1, 2))
    for other in (np.arange(n), b):
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.06
    assert np.mean(np.diff(a) == 1) < 0.002
    # Every place is as likely to hold any number: means over many orders.
    first = [permute(np.arange(3), 1000, keys(k, 3)) for k in range(2000)]
    assert np.all(np.abs(np.mean(first, axis=0) - 499.5) < 25)


def test_far_places_and_big_sizes():
    size = 10**9
    places = np.array([0, 1, size - 1])
    found = permute(places, size, keys(5, 3))
    assert found.min() >= 0 and found.max() < size and len(set(found)) == 3


def test_mix_is_a_function_of_every_bit():
    values = np.uint64(1) << np.arange(64, dtype=np.uint64)
    assert len(set(mix(values))) == 64
