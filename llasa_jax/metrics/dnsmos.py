"""Speech quality without a reference: DNSMOS P.835 (Reddy et al. 2022), by speechmos."""

import numpy as np

from llasa_jax.audio.io import resample
from llasa_jax.errors import UserError

RATE = 16_000


def dnsmos(wave: np.ndarray, rate: int) -> float | None:
    """Overall quality (OVRL) of a wave, [samples] in [-1, 1], from 1 to 5.

    The model hears 9.01 s at a time: a shorter wave is repeated until it is as long.

    Returns:
        None for a wave without samples.

    Raises:
        UserError: if the optional packages are missing.
    """
    try:
        from speechmos import dnsmos as package
    except ImportError as error:
        raise UserError(
            f"DNSMOS needs the packages speechmos and onnxruntime ({error}): "
            "pip install 'llasa-jax[eval]'"
        ) from error
    if not len(wave):
        return None
    heard = np.clip(resample(np.asarray(wave, np.float32), rate, RATE), -1, 1)
    return float(package.run(heard, RATE)["ovrl_mos"])
