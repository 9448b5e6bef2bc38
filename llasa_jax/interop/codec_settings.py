"""Configurations of published X-Codec2 layouts, in and out."""

import math
from pathlib import Path
from typing import Any

from llasa_jax.config import (
    CodecConfig,
    ConvConfig,
    SemanticConfig,
    TransformerConfig,
    from_dict,
    require,
    to_dict,
)
from llasa_jax.errors import UserError
from llasa_jax.interop.layouts import Layout
from llasa_jax.interop.weights import Weights

MODEL_TYPES = {"transformers": "xcodec2", "neucodec": "neucodec"}
GROUPS = 32  # of every group norm
RIGHT = 8  # distances to later frames that w2v-BERT tells apart
# Of the original, whose files do not say:
RATE = 16000
LEVELS = 4  # of each dimension
HEAD = 64  # width of a head of its decoder
USED = 16  # layers of its semantic model, of the 24 in its file


def original_settings(weights: Weights) -> CodecConfig:
    """Settings of an original checkpoint, from the shapes of its tensors.

    A checkpoint that writes at another rate than it hears is NeuCodec's own, whose filter banks see
    no zeros beyond the wave.

    Raises:
        UserError: if the shapes are of no X-Codec2.
    """
    acoustic, semantic = "CodecEnc.conv_blocks", "semantic_model.encoder.layers"
    backbone = "generator.backbone"

    def size(name: str, axis: int = 0) -> int:
        return weights.shape(name)[axis]

    def count(name: str, first: int = 0) -> int:
        number = first
        while name.replace("#", str(number)) in weights:
            number += 1
        return number - first

    try:
        blocks = range(1, 1 + count(f"{acoustic}.#.block.4.bias", 1))
        convs = [f"{acoustic}.{block}.block.4.weight" for block in blocks]
        widths = [size(name if name in weights else f"{name}_v", 2) for name in convs]
        strides = tuple(width // 2 for width in widths)
        hop, output_hop = math.prod(strides), (size("generator.head.out.bias") - 2) // 4
        dim, decoder_dim = (
            size(f"{semantic}.0.final_layer_norm.bias"),
            size(f"{backbone}.embed.bias"),
        )
        distances = f"{semantic}.0.self_attn.distance_embedding.weight"
        return CodecConfig(
            sample_rate=RATE,
            hop=hop,
            output_rate=RATE * output_hop // hop,
            levels=(LEVELS,) * size("generator.quantizer.project_in.bias"),
            spectral=None,
            conv=ConvConfig(
                channels=size(f"{acoustic}.0.bias"),
                strides=strides,
                dim=size("CodecEnc.conv_final_block.1.bias"),
            ),
            semantic=SemanticConfig(
                dim=dim,
                ffn=size(f"{semantic}.0.ffn1.intermediate_dense.bias"),
                layers=min(USED, count(f"{semantic}.#.final_layer_norm.bias")),
                heads=dim // size(distances, 1),
                mel_bins=size("semantic_model.feature_projection.layer_norm.bias") // 2,
                conv_width=size(f"{semantic}.0.conv_module.depthwise_conv.weight", 2),
                left=size(distances) - RIGHT - 1,
                right=RIGHT,
                edge=hop // 2 if output_hop == hop else 0,
            ),
            decoder=TransformerConfig(
                dim=decoder_dim,
                ffn=size(f"{backbone}.transformers.0.mlp.fc1.weight"),
                layers=count(f"{backbone}.transformers.#.att_norm.weight"),
                heads=decoder_dim // HEAD,
            ),
            norm_groups=GROUPS,
        )
    except (IndexError, ZeroDivisionError) as error:
        raise UserError(f"{weights.path}: the tensors' shapes are of no X-Codec2") from error


def published_settings(path: Path, found: dict) -> CodecConfig:
    """Settings from a transformers config.json, of Xcodec2Model or NeuCodecModel.

    Args:
        path: where `found` was read, for messages.

    Raises:
        UserError: if it configures something that this codec has no setting for.
    """
    semantic = found.get("semantic_model_config") or {"num_hidden_layers": USED}
    neucodec = found.get("model_type") == MODEL_TYPES["neucodec"]
    try:
        dim, heads = found.get("hidden_size", 1024), found.get("num_attention_heads", 16)
        semantic_dim = semantic.get("hidden_size", 1024)
        # Settings that this codec has no other value for; absent means transformers' default.
        _demand(found, "model_type", list(MODEL_TYPES.values()))
        _demand(found, "hidden_act", ["silu"])
        _demand(found, "attention_bias", [False])
        _demand(found, "rms_norm_eps", [1e-6])
        _demand(found, "num_key_value_heads", [heads], 16)
        _demand(found, "head_dim", [dim / heads], 64)
        _demand(semantic, "model_type", ["wav2vec2-bert"])
        _demand(semantic, "hidden_act", ["swish", "silu"])
        _demand(semantic, "layer_norm_eps", [1e-5])
        _demand(semantic, "position_embeddings_type", ["relative_key"])
        _demand(semantic, "add_adapter", [False])
        _demand(found, "quantization_dim", [dim + semantic_dim], 2048)
        strides = tuple(found.get("downsampling_ratios", (2, 2, 4, 4, 5)))
        hop, levels = math.prod(strides), found.get("quantization_levels", (4,) * 8)
        if neucodec:
            rate = found.get("input_sampling_rate", 16000)
            output_rate = found.get("output_sampling_rate", 24000)
        else:
            rate = output_rate = found.get("sampling_rate", 16000)
        config = CodecConfig(
            sample_rate=rate,
            hop=hop,
            output_rate=output_rate,
            levels=tuple(levels),
            spectral=None,
            conv=ConvConfig(
                channels=found.get("encoder_hidden_size", 48), strides=strides, dim=dim
            ),
            semantic=SemanticConfig(
                dim=semantic_dim,
                ffn=semantic.get("intermediate_size", 4096),
                layers=semantic.get("num_hidden_layers", 24),
                heads=semantic.get("num_attention_heads", 16),
                mel_bins=semantic.get("feature_projection_input_dim", 160) // 2,
                conv_width=semantic.get("conv_depthwise_kernel_size", 31),
                left=semantic.get("left_max_position_embeddings", 64),
                right=semantic.get("right_max_position_embeddings", RIGHT),
                edge=0 if neucodec else hop // 2,
            ),
            decoder=TransformerConfig(
                dim=dim,
                ffn=found.get("intermediate_size", 4096),
                layers=found.get("num_hidden_layers", 12),
                heads=heads,
            ),
            norm_groups=GROUPS,
        )
        return from_dict(CodecConfig, to_dict(config))  # checks the types as well
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: breaks a setting ({error})") from error


def settings_files(layout: Layout, config: CodecConfig) -> dict[str, dict]:
    """The JSON files of a layout's folder, by name.

    Raises:
        UserError: if the layout has no place for a setting.
    """
    _require_fit(layout, config)
    semantic, decoder = config.semantic, config.decoder
    if layout == "xcodec2":
        values: dict[str, Any] = {
            "model_type": "xcodec2",
            "semantic_hidden_size": semantic.dim,
            "codec_encoder_hidden_size": config.conv.dim,
            "codec_decoder_hidden_size": decoder.dim,
            "use_vocos": True,
            "architectures": ["XCodec2Model"],
        }
        return {"config.json": values}
    values = {
        "architectures": ["Xcodec2Model" if layout == "transformers" else "NeuCodecModel"],
        "model_type": MODEL_TYPES[layout],
        "dtype": "float32",
        "hidden_size": decoder.dim,
        "intermediate_size": decoder.ffn,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.heads,
        "head_dim": decoder.dim // decoder.heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "encoder_hidden_size": config.conv.channels,
        "downsampling_ratios": list(config.conv.strides),
        "quantization_dim": config.fused_dim,
        "quantization_levels": list(config.levels),
        "semantic_model_config": {
            "model_type": "wav2vec2-bert",
            "hidden_size": semantic.dim,
            "intermediate_size": semantic.ffn,
            "num_hidden_layers": semantic.layers,
            "num_attention_heads": semantic.heads,
            "feature_projection_input_dim": 2 * semantic.mel_bins,
            "conv_depthwise_kernel_size": semantic.conv_width,
            "left_max_position_embeddings": semantic.left,
            "right_max_position_embeddings": semantic.right,
            "position_embeddings_type": "relative_key",
            "hidden_act": "swish",
            "layer_norm_eps": 1e-5,
            "add_adapter": False,
            "apply_spec_augment": False,
            "mask_time_prob": 0.0,  # else there would be an embedding for what is masked
        },
    }
    extractor = {
        "feature_size": semantic.mel_bins,
        "sampling_rate": config.sample_rate,
        "hop_length": config.hop,
        "padding_value": 1.0,
        "padding_side": "right",
        "return_attention_mask": True,
    }
    if layout == "neucodec":
        values["input_sampling_rate"] = config.sample_rate
        values["output_sampling_rate"] = config.output_rate
        extractor["feature_extractor_type"] = "NeuCodecFeatureExtractor"
    else:
        values["sampling_rate"] = config.sample_rate
        extractor["feature_extractor_type"] = "Xcodec2FeatureExtractor"
    return {"config.json": values, "preprocessor_config.json": extractor}


def _require_fit(layout: Layout, config: CodecConfig) -> None:
    """Raises UserError naming the first setting that the layout has no place for."""
    semantic, decoder = config.semantic, config.decoder

    def fit(ok: bool, what: str) -> None:
        require(ok, f"layout {layout} has no place for {what}; keep this codec in layout llasa")

    fit(config.conv is not None, "a spectral encoder")
    fit(semantic is not None, "a codec without a semantic branch")
    fit(semantic.kind == "wav2vec2-bert", f"a semantic branch of kind {semantic.kind}")
    fit(not config.causal, "a causal decoder")
    fit(config.istft_frames == 1, f"{config.istft_frames} ISTFT frames a code")
    fit(config.norm_groups == GROUPS, f"{config.norm_groups} norm groups")
    edge, same_rate = config.hop // 2, config.output_rate == config.sample_rate
    if layout == "transformers":
        fit(same_rate, f"an output at {config.output_rate} Hz")
        fit(semantic.edge == edge, f"a semantic edge of {semantic.edge}")
    elif layout == "neucodec":
        fit(semantic.edge == 0, f"a semantic edge of {semantic.edge}")
    else:
        fit(config.sample_rate == RATE, f"an input at {config.sample_rate} Hz")
        fit(set(config.levels) == {LEVELS}, f"levels {config.levels}")
        fit(decoder.dim == HEAD * decoder.heads, f"heads of {decoder.dim // decoder.heads}")
        fit(semantic.layers <= USED, f"{semantic.layers} semantic layers")
        fit(semantic.right == RIGHT, f"{semantic.right} distances to later frames")
        expected = edge if same_rate else 0
        fit(semantic.edge == expected, f"a semantic edge of {semantic.edge} at these rates")
    if layout != "xcodec2":
        fit(config.conv.dim == decoder.dim, "encoder and decoder of different widths")


def _demand(found: dict, key: str, allowed: list, default: Any = None) -> None:
    value = found.get(key, allowed[0] if default is None else default)
    if value not in allowed:
        raise UserError(f"{key} is {value!r}, only {allowed[0]!r} can be read")
