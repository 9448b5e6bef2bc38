import numpy as np
import pytest

from llasa_jax.audio.tempo import stretched
from llasa_jax.errors import UserError

RATE = 16_000


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.9, 1.0, 1.5, 2.0, 3.1, 4.0])
def test_faster_and_slower_at_the_same_pitch(speed):
    wave = (0.3 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    found = np.concatenate(
        list(stretched([wave[:777], wave[777:20_000], wave[20_000:]], RATE, speed))
    )
    assert abs(len(found) * speed / len(wave) - 1) < 0.03
    peak = np.abs(np.fft.rfft(found)).argmax() * RATE / len(found)
    assert abs(peak - 220) < 2
    assert found.dtype == np.float32 and 0.2 < np.abs(found).max() < 0.35


@pytest.mark.parametrize("speed", [0, 0.2, 4.1, float("nan"), float("inf")])
def test_other_speeds_are_refused(speed):
    with pytest.raises(UserError, match="speed"):
        list(stretched([np.zeros(100, np.float32)], RATE, speed))
