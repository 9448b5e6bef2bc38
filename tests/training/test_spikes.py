import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.training.spikes import empty_window, judge

STEP = jax.jit(judge)


def seen(values, size=16, sigmas=6.0):
    """Which of these losses are spikes, and the window after them; the norm is always 2."""
    window, found = empty_window(size), []
    for value in values:
        spike, window = STEP(window, jnp.float32(value), jnp.float32(2.0), sigmas)
        found.append(bool(spike))
    return found, window


def noise(count, seed=0):
    return 5 + 0.1 * np.random.default_rng(seed).normal(size=count)


def test_a_leap_is_a_spike_once_the_window_is_full():
    steady = noise(40)
    assert not any(seen(steady)[0])
    assert not any(seen([*steady[:15], 50.0])[0])
    found, _ = seen([*steady, 50.0, 5.1, 0.1])
    assert found[-3:] == [True, False, False]  # less than before is welcome


def test_the_limit_is_in_standard_deviations():
    steady = noise(16)
    limit = steady.mean() + 6 * steady.std()
    assert seen([*steady, limit + 0.01])[0][-1]
    assert not seen([*steady, limit - 0.01])[0][-1]


def test_the_gradient_alone_can_be_a_spike():
    _, window = seen(noise(16))
    assert STEP(window, jnp.float32(5.0), jnp.float32(3.0), 6.0)[0]
    assert not STEP(window, jnp.float32(5.0), jnp.float32(2.001), 6.0)[0]


def test_one_spike_does_not_hide_the_next():
    found, _ = seen([*noise(32), 1e6, *noise(4, 1), 9.0])
    assert found[32:] == [True, False, False, False, False, True]


def test_a_lasting_change_is_taken_for_normal_after_some_steps():
    found, _ = seen([*noise(32), *(noise(60, 1) + 4)])
    assert found[32] and not any(found[-20:])


def test_a_step_that_is_not_finite_is_no_spike_and_is_not_remembered():
    _, window = seen(noise(20))
    for loss, norm in ((jnp.nan, 2.0), (5.0, jnp.inf)):
        spike, after = STEP(window, jnp.float32(loss), jnp.float32(norm), 6.0)
        assert not spike
        jax.tree.map(np.testing.assert_array_equal, after, window)


def test_a_window_of_equal_values_takes_a_little_more():
    found, _ = seen([1.0] * 20 + [1.001, 1.1])
    assert found[-2:] == [False, True]
