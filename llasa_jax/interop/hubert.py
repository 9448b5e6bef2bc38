"""HuBERT's released weights, in transformers' layout: `HubertForCTC`, as
facebook/hubert-large-ls960-ft publishes it."""

from pathlib import Path

import numpy as np

from llasa_jax import nn
from llasa_jax.config import HubertConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.layouts import check_tensors, take_tensors
from llasa_jax.interop.weights import Weights, read_json, read_settings
from llasa_jax.verifiers.hubert import Hubert
from llasa_jax.verifiers.wav2vec import CONVOLUTIONS

TABLE = {
    "frames.conv_layers": "hubert.feature_extractor.conv_layers",
    "frames": "hubert.feature_projection",
    "positions.conv": "hubert.encoder.pos_conv_embed.conv",
    "layers.layers.attention.qkv": "hubert.encoder.layers.#.attention.[qkv]_proj",
    "layers.layers.fc1": "hubert.encoder.layers.#.feed_forward.intermediate_dense",
    "layers.layers.fc2": "hubert.encoder.layers.#.feed_forward.output_dense",
    "layers.layers": "hubert.encoder.layers.#",
    "layer_norm": "hubert.encoder.layer_norm",
    "lm_head": "lm_head",
}
FIXED = {
    "model_type": "hubert",
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "feat_proj_layer_norm": True,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "conv_kernel": [width for width, _ in CONVOLUTIONS],
    "conv_stride": [stride for _, stride in CONVOLUTIONS],
    "layer_norm_eps": 1e-5,
    "pad_token_id": 0,
}
DELIMITER = "|"  # between words


def import_hubert(folder: Path) -> tuple[HubertConfig, dict]:
    """Configuration and float32 parameters of a released HuBERT with CTC.

    Raises:
        UserError: if a file is missing or broken, the settings are another model's, or a tensor is
            missing, left over, of another shape or not finite; the message names it.
    """
    folder = Path(folder)
    config = _read_config(folder)
    weights = Weights(folder)
    join_weight_norm(weights, TABLE["positions.conv"])
    if "hubert.masked_spec_embed" in weights:  # of pre-training
        weights.drop("hubert.masked_spec_embed", (config.dim,))
    _, template = nn.abstract(lambda rngs: Hubert(config, rngs=rngs))
    leaves = flatten(template)
    check_tensors(weights, TABLE, leaves)
    params = unflatten(template, take_tensors(weights, TABLE, leaves))
    weights.finish()
    return config, params


def join_weight_norm(weights: Weights, module: str) -> None:
    """Multiplies a convolution's weight norm over its width out: g v / |v| becomes its weight.

    Both of torch's spellings are read; a weight that is whole stays as it is.

    Raises:
        UserError: if one of the two is missing or they do not fit each other.
    """
    names = [f"{module}.parametrizations.weight.original{i}" for i in (0, 1)]
    names = names if names[0] in weights else [f"{module}.weight_g", f"{module}.weight_v"]
    if names[0] not in weights:
        return
    shape = weights.shape(names[1])
    if len(shape) != 3:
        raise UserError(f"{weights.path}: tensor {names[1]} has shape {shape}, not that of kernels")
    gain = weights.take(names[0], (1, 1, shape[2]))
    value = weights.take(names[1], shape)
    norm = np.sqrt(np.square(value, dtype=np.float64).sum((0, 1)))
    weights.add(f"{module}.weight", (value * (gain / norm)).astype(np.float32))


def _read_config(folder: Path) -> HubertConfig:
    places = read_json(folder / "vocab.json")
    outputs = sorted(places, key=lambda name: places[name])
    if [places[name] for name in outputs] != list(range(len(outputs))):
        raise UserError(f"{folder / 'vocab.json'}: its ids are not 0 to {len(outputs) - 1}")
    path = folder / "config.json"
    with read_settings(path, FIXED) as found:
        channels = found["conv_dim"]
        if len(set(channels)) != 1 or len(channels) != len(CONVOLUTIONS):
            raise UserError(f"{path}: conv_dim {channels} is not read, all must be equal")
        return HubertConfig(
            channels=channels[0],
            conv_bias=found["conv_bias"],
            dim=found["hidden_size"],
            ffn=found["intermediate_size"],
            heads=found["num_attention_heads"],
            layers=found["num_hidden_layers"],
            position_width=found["num_conv_pos_embeddings"],
            position_groups=found["num_conv_pos_embedding_groups"],
            outputs=tuple(" " if one == DELIMITER else one.lower() for one in outputs),
        )
