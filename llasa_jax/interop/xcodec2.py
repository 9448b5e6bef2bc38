"""Codecs in the layouts of the original X-Codec2 and of transformers' Xcodec2 and NeuCodec."""

import re
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.codec.activations import TAPS
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.codec_settings import (
    MODEL_TYPES,
    original_settings,
    published_settings,
    settings_files,
)
from llasa_jax.interop.layouts import Layout, check_tensors, modules, take_tensors, views
from llasa_jax.interop.weights import WEIGHTS, Weights, read_json, write_json, write_tensors

# Of Lightning checkpoints: what only training needs.
TRAINING = (
    "fc_post_s",
    "SemanticDecoder_module",
    "discriminator",
    "spec_discriminator",
    "model_spk",
)
FILTERS = ("upsample.filter", "downsample.lowpass.filter")  # beside each act of the original
WINDOW = "generator.head.istft.window"
EXACT = 1e-6  # of constants that are stored: their rounding


@dataclass(frozen=True)
class ImportedCodec:
    """A codec read from a published layout.

    Attributes:
        params: float32 numpy arrays, the tree of `Codec(config)`.
        ignored: what the file holds for training only, such as "discriminator (12 tensors)".
    """

    layout: Layout
    config: CodecConfig
    params: dict
    ignored: tuple[str, ...]


def codec_layout(weights: Weights) -> Layout | None:
    """The layout that a checkpoint's tensors are named in; None if they are no codec's.

    Xcodec2Model and NeuCodecModel have the same tensors: config.json tells which it is.
    """
    if "CodecEnc.conv_blocks.0.bias" in weights:
        return "xcodec2"
    if "acoustic_encoder.conv1.bias" not in weights:
        return None
    found = read_json(_folder(weights) / "config.json").get("model_type")
    return "neucodec" if found == MODEL_TYPES["neucodec"] else "transformers"


def import_codec(weights: Weights) -> ImportedCodec:
    """The codec of a checkpoint, tensor by tensor.

    Raises:
        UserError: if it is of no known layout, its settings fit no codec here, a tensor is missing,
            left over, of another shape or not finite, a stored filter is another one, or every beta
            is zero; the message names it.
    """
    layout = codec_layout(weights)
    ignored: tuple[str, ...] = ()
    masked = "semantic_encoder.masked_spec_embed"  # of pre-training
    if layout is None:
        raise UserError(f"{weights.path}: holds no X-Codec2 or NeuCodec")
    if layout == "xcodec2":
        _take_old_names(weights)
        ignored = _drop_training(weights)
        config = original_settings(weights)
    else:
        path = _folder(weights) / "config.json"
        config = published_settings(path, read_json(path))
    layers, count = max(config.decoder.layers, config.semantic.layers), len(weights.names())
    if layers > count:
        raise UserError(
            f"{weights.path}: has {count} tensors, its settings ask for {layers} layers"
        )
    try:
        template = _template(config)
    except (UserError, OverflowError) as error:
        raise UserError(f"{weights.path}: {error}") from error
    table, leaves = modules(layout, config), flatten(template)
    shapes = check_tensors(weights, table, leaves)
    flat = take_tensors(weights, table, leaves)
    if layout != "xcodec2":
        _derive_gains(flat)
    if layout == "xcodec2":
        _check_constants(weights, table, config)
        _drop_upper_layers(weights, shapes, config)
        masked = "semantic_model.masked_spec_embed"
    if masked in weights:
        weights.drop(masked, (config.semantic.dim,))
    weights.finish()
    if not any(tensor.any() for key, tensor in flat.items() if key.endswith(".beta")):
        raise UserError(
            f"{weights.path}: every act.beta is zero: never trained, or lost by a loader that "
            "renames beta to bias; take the file that was released"
        )
    return ImportedCodec(layout, config, unflatten(template, flat), ignored)


def export_codec(folder: Path, layout: Layout, config: CodecConfig, params: dict) -> None:
    """Writes a codec as the layout's folder: `model.safetensors`, `config.json`.

    Weight norm stays apart in the original layout and is multiplied out in transformers'.

    Raises:
        UserError: if the layout has no place for a setting, or the folder cannot be written.
    """
    files = settings_files(layout, config)
    table = modules(layout, config)
    flat = {key: np.asarray(leaf) for key, leaf in flatten(jax.device_get(params)).items()}
    tensors: dict[str, np.ndarray] = {}
    for key, tensor in flat.items():
        gain = flat.get(f"{key.removesuffix('kernel')}gain") if key.endswith(".kernel") else None
        if gain is not None and layout != "xcodec2":
            tensor = tensor * (gain / _norm(tensor))
        tensors |= views(table, key, tensor)
    if layout == "xcodec2":
        tensors |= _constants(table, config)
        tensors["semantic_model.masked_spec_embed"] = np.zeros(config.semantic.dim, np.float32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in files.items():
            write_json(folder / name, values)
        write_tensors(folder / WEIGHTS, tensors)
    except OSError as error:
        raise UserError(f"cannot write the codec to {folder}: {error.strerror}") from error


def _template(config: CodecConfig) -> dict:
    return nn.abstract(lambda rngs: Codec(config, rngs=rngs))[1]


def _folder(weights: Weights) -> Path:
    return weights.path.parent if weights.path.is_file() else weights.path


def _norm(kernel: np.ndarray) -> np.ndarray:
    """Norm of each output's weights: [K, in, out] -> [out]."""
    return np.sqrt(np.sum(np.square(kernel, dtype=np.float64), (0, 1))).astype(np.float32)


def _derive_gains(flat: dict[str, np.ndarray]) -> None:
    """Gains of kernels that hold the whole weight: the weight's norm."""
    for key in [key for key in flat if key.endswith(".gain")]:
        kernel = flat[f"{key.removesuffix('gain')}kernel"]
        flat[key] = norm = _norm(kernel)
        kernel[..., norm == 0] = 1  # a dead output keeps its gain of zero, and some direction


def _take_old_names(weights: Weights) -> None:
    """Names of re-saved originals: torch's later weight norm, and beta as transformers misread it.

    PyPI's xcodec2 0.1.3 to 0.1.5 call it `bias`; transformers up to 4.47 renamed it on loading.
    """
    for name in weights.names():
        new = name.replace(".parametrizations.weight.original0", ".weight_g")
        new = new.replace(".parametrizations.weight.original1", ".weight_v")
        new = re.sub(r"\.act\.bias$", ".act.beta", new)
        if new != name:
            weights.rename(name, new)


def _drop_training(weights: Weights) -> tuple[str, ...]:
    counts = dict.fromkeys(TRAINING, 0)
    for name in weights.names():
        part = name.partition(".")[0]
        if part in counts:
            counts[part] += 1
            weights.drop(name)
    return tuple(f"{part} ({count} tensors)" for part, count in counts.items() if count)


def _constants(table: dict[str, str], config: CodecConfig) -> dict[str, np.ndarray]:
    """What the original stores beside its parameters: filters and the ISTFT's window."""
    taps = np.float32(TAPS)[None, None]
    acts = [name.removesuffix("act") for name in table.values() if name.endswith(".act")]
    window = np.float32(np.hanning(4 * config.output_hop + 1)[:-1])
    return {f"{act}{name}": taps for act in acts for name in FILTERS} | {WINDOW: window}


def _check_constants(weights: Weights, table: dict[str, str], config: CodecConfig) -> None:
    for name, expected in _constants(table, config).items():
        if name in weights:
            found = weights.take(name, expected.shape)
            if np.abs(found - expected).max() > EXACT:
                raise UserError(f"{weights.path}: tensor {name} is another filter than X-Codec2's")


def _drop_upper_layers(
    weights: Weights, shapes: dict[str, tuple[int, ...]], config: CodecConfig
) -> None:
    """Drops the semantic model's layers whose output nothing uses, if their shapes are right."""
    prefix, upper = "semantic_model.encoder.layers.", config.semantic.layers
    first = f"{prefix}0."
    layer = {name.removeprefix(first): shapes[name] for name in shapes if name.startswith(first)}
    while any(name.startswith(f"{prefix}{upper}.") for name in weights.names()):
        for name, shape in layer.items():
            weights.drop(f"{prefix}{upper}.{name}", shape)
        upper += 1
