"""Weights of the GE2E speaker encoder from the Resemblyzer wheel, without importing it.

The package's own dependencies (torch, webrtcvad) are not needed: `pip install --no-deps
Resemblyzer==0.1.4` lays down the file that is read here.
"""

from importlib import metadata
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.interop.torch_pickle import read_torch_file
from llasa_jax.verifiers.ge2e import BINS, LAYERS, SIZE

INSTALL = "pip install --no-deps Resemblyzer==0.1.4"
NOT_USED = ("similarity_weight", "similarity_bias")  # of the training loss


def weights_file() -> Path:
    """The installed wheel's `pretrained.pt`.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        path = Path(str(metadata.distribution("Resemblyzer").locate_file("resemblyzer")))
    except metadata.PackageNotFoundError:
        raise UserError(f"the GE2E judge's weights are not installed; run: {INSTALL}") from None
    if not (path / "pretrained.pt").is_file():
        raise UserError(f"{path}: holds no pretrained.pt; run: {INSTALL} --force-reinstall")
    return path / "pretrained.pt"


def load_ge2e(path: Path | None = None) -> dict:
    """Parameters of `llasa_jax.verifiers.ge2e` from a checkpoint of Resemblyzer.

    Args:
        path: the checkpoint; None is the installed wheel's.

    Raises:
        UserError: if it is missing, or does not hold exactly the encoder's parameters.
    """
    path = path or weights_file()
    content = read_torch_file(path)
    state = dict(content.get("model_state", {})) if isinstance(content, dict) else {}

    def take(key: str, *shape: int) -> np.ndarray:
        value = state.pop(key, None)
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise UserError(f"{path}: {key} is not there or not of shape {shape}; run: {INSTALL}")
        return value.astype(np.float32)

    layers = []
    for i in range(LAYERS):
        bias = take(f"lstm.bias_ih_l{i}", 4 * SIZE) + take(f"lstm.bias_hh_l{i}", 4 * SIZE)
        layers.append(
            {
                "input": jnp.asarray(take(f"lstm.weight_ih_l{i}", 4 * SIZE, SIZE if i else BINS).T),
                "hidden": jnp.asarray(take(f"lstm.weight_hh_l{i}", 4 * SIZE, SIZE).T),
                "bias": jnp.asarray(bias),
            }
        )
    params = {
        "lstm": layers,
        "kernel": jnp.asarray(take("linear.weight", SIZE, SIZE).T),
        "bias": jnp.asarray(take("linear.bias", SIZE)),
    }
    unknown = set(state) - set(NOT_USED)
    if unknown:
        raise UserError(f"{path}: has unknown parameters {', '.join(sorted(unknown))}")
    return params
