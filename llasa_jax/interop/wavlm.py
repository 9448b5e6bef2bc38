"""WavLM-large with ECAPA-TDNN as microsoft/UniSpeech publishes it: `wavlm_large_finetune.pth`.

The checkpoint has no settings; its tensors' shapes tell them.
"""

from pathlib import Path

from llasa_jax import nn
from llasa_jax.config import WavlmConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.hubert import join_weight_norm
from llasa_jax.interop.layouts import check_tensors, take_tensors
from llasa_jax.interop.weights import Weights
from llasa_jax.verifiers.ecapa import DILATIONS
from llasa_jax.verifiers.wav2vec import CONVOLUTIONS
from llasa_jax.verifiers.wavlm import WavlmSpeaker

_WAVLM = "feature_extract.model"
_LAYER = f"{_WAVLM}.encoder.layers.#"
_FIRST = f"{_WAVLM}.encoder.layers.0"
POSITIONS = f"{_WAVLM}.encoder.pos_conv.0"
MIXTURE = "feature_weight"
TRAINING = (  # what scoring does not need
    "loss_calculator.",
    *(f"{_WAVLM}.{name}" for name in ("mask_emb", "final_proj.", "label_embs_concat")),
)


def table(scale: int) -> dict[str, str]:
    """Our modules, or what several of them start with, and theirs."""
    rows = {}
    for i in range(len(CONVOLUTIONS)):
        rows[f"wavlm.frames.conv_layers.{i}.conv"] = f"{_WAVLM}.feature_extractor.conv_layers.{i}.0"
        rows[f"wavlm.frames.conv_layers.{i}.layer_norm"] = (
            f"{_WAVLM}.feature_extractor.conv_layers.{i}.2.1"
        )
    rows |= {
        "wavlm.frames.layer_norm": f"{_WAVLM}.layer_norm",
        "wavlm.frames.projection": f"{_WAVLM}.post_extract_proj",
        "wavlm.positions.conv": POSITIONS,
        "wavlm.layers.layers.attention.qkv": f"{_LAYER}.self_attn.[qkv]_proj",
        "wavlm.layers.layers.attention": f"{_LAYER}.self_attn",
        "wavlm.layers.layers.layer_norm": f"{_LAYER}.self_attn_layer_norm",
        "wavlm.layers.layers": _LAYER,
        "wavlm.layer_norm": f"{_WAVLM}.encoder.layer_norm",
        "wavlm": f"{_FIRST}.self_attn",  # relative_attention_bias, which all layers share
        "ecapa.stem": "layer1",
        "ecapa.conv": "conv",
        "ecapa.attention1": "pooling.linear1",
        "ecapa.attention2": "pooling.linear2",
        "ecapa.bn": "bn",
        "ecapa.linear": "linear",
    }
    for i in range(len(DILATIONS)):
        ours, theirs = f"ecapa.blocks.{i}", f"layer{i + 2}"
        rows[f"{ours}.first"] = f"{theirs}.Conv1dReluBn1"
        rows[f"{ours}.last"] = f"{theirs}.Conv1dReluBn2"
        for part in range(scale - 1):
            rows[f"{ours}.parts.{part}.conv"] = f"{theirs}.Res2Conv1dReluBn.convs.{part}"
            rows[f"{ours}.parts.{part}.bn"] = f"{theirs}.Res2Conv1dReluBn.bns.{part}"
        rows[ours] = f"{theirs}.SE_Connect"
    return rows


def import_wavlm(path: Path) -> tuple[WavlmConfig, dict]:
    """Configuration and float32 parameters of a released speaker verifier.

    Raises:
        UserError: if the file is missing or broken, or a tensor is missing, left over, of another
            shape or not finite; the message names it.
    """
    weights = Weights(Path(path))
    config = _config_of(weights)
    join_weight_norm(weights, POSITIONS)
    for name in weights.names():
        if name.startswith(TRAINING) or name.endswith(".num_batches_tracked"):
            weights.drop(name)
    _, template = nn.abstract(lambda rngs: WavlmSpeaker(config, rngs=rngs))
    leaves, rows = flatten(template), table(config.scale)
    mixture = leaves.pop(f"wavlm.{MIXTURE}").shape
    check_tensors(weights, rows, leaves)
    flat = {f"wavlm.{MIXTURE}": weights.take(MIXTURE, mixture)}
    params = unflatten(template, flat | take_tensors(weights, rows, leaves))
    weights.finish()
    return config, params


def _config_of(weights: Weights) -> WavlmConfig:
    layers = 0
    while f"{_LAYER.replace('#', str(layers))}.fc1.weight" in weights:
        layers += 1
    scale = 1
    while f"layer2.Res2Conv1dReluBn.convs.{scale - 1}.weight" in weights:
        scale += 1
    names = [f"{POSITIONS}.weight_v", f"{POSITIONS}.parametrizations.weight.original1"]
    kernel = weights.shape(names[names[1] in weights])
    shapes = [
        weights.shape(name)
        for name in (
            f"{_FIRST}.fc1.weight",
            f"{_FIRST}.self_attn.relative_attention_bias.weight",
            f"{_WAVLM}.post_extract_proj.weight",
            "layer1.conv.weight",
            "pooling.linear1.weight",
            "linear.weight",
        )
    ]
    try:
        (ffn, dim), (buckets, heads), (_, channels), stem, (bottleneck, pooled, _), last = shapes
        return WavlmConfig(
            channels=channels,
            dim=dim,
            ffn=ffn,
            heads=heads,
            layers=layers,
            position_width=kernel[2],
            position_groups=dim // kernel[1],
            buckets=buckets,
            speaker_channels=stem[0],
            pooled=pooled,
            bottleneck=bottleneck,
            scale=scale,
            embedding=last[0],
        )
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{weights.path}: its tensors are of no WavLM with ECAPA-TDNN") from error
