"""Where the published layouts of X-Codec2 keep what ours keeps: names, axes and configurations.

"xcodec2" is the original (zhenye234/X-Codec-2.0, PyPI's xcodec2), "transformers" its Xcodec2Model,
"neucodec" its NeuCodecModel; the last two differ in their configuration only.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from llasa_jax.config import CodecConfig
from llasa_jax.console import track
from llasa_jax.interop.weights import Weights

Layout = Literal["xcodec2", "transformers", "neucodec"]

# Our modules, or what several of them start with, and theirs. {b} is an encoder block from 0, {c}
# the same from 1, {u} a unit from 1, {t} the same from 0; "#" is a layer of a stack, which we hold
# in one tensor; [qkv] are three tensors that we hold in one.
_ORIGINAL = {
    "semantic.model.feature_projection": "semantic_model.feature_projection",
    "semantic.model.layers.layers": "semantic_model.encoder.layers.#",
    "semantic.adapter.conv1": "SemanticEncoder_module.initial_conv",
    "semantic.adapter.conv2": "SemanticEncoder_module.residual_blocks.1",
    "semantic.adapter.conv3": "SemanticEncoder_module.residual_blocks.3",
    "semantic.adapter.conv4": "SemanticEncoder_module.final_conv",
    "encoder.conv_in": "CodecEnc.conv_blocks.0",
    "encoder.blocks.{b}.unit{u}.snake1": "CodecEnc.conv_blocks.{c}.block.{t}.block.0.act",
    "encoder.blocks.{b}.unit{u}.conv1": "CodecEnc.conv_blocks.{c}.block.{t}.block.1",
    "encoder.blocks.{b}.unit{u}.snake2": "CodecEnc.conv_blocks.{c}.block.{t}.block.2.act",
    "encoder.blocks.{b}.unit{u}.conv2": "CodecEnc.conv_blocks.{c}.block.{t}.block.3",
    "encoder.blocks.{b}.snake": "CodecEnc.conv_blocks.{c}.block.3.act",
    "encoder.blocks.{b}.conv": "CodecEnc.conv_blocks.{c}.block.4",
    "encoder.snake": "CodecEnc.conv_final_block.0.act",
    "encoder.conv_out": "CodecEnc.conv_final_block.1",
    "fc_prior": "fc_prior",
    "quantizer": "generator.quantizer",
    "fc_post": "fc_post_a",
    "decoder.embed": "generator.backbone.embed",
    "decoder.backbone.prior.layers": "generator.backbone.prior_net.#",
    "decoder.backbone.transformers.layers.att_norm": "generator.backbone.transformers.#.att_norm",
    "decoder.backbone.transformers.layers.c_attn": "generator.backbone.transformers.#.att.c_attn",
    "decoder.backbone.transformers.layers.c_proj": "generator.backbone.transformers.#.att.c_proj",
    "decoder.backbone.transformers.layers.ffn_norm": "generator.backbone.transformers.#.ffn_norm",
    "decoder.backbone.transformers.layers.fc1": "generator.backbone.transformers.#.mlp.fc1",
    "decoder.backbone.transformers.layers.fc2": "generator.backbone.transformers.#.mlp.fc2",
    "decoder.backbone.post.layers": "generator.backbone.post_net.#",
    "decoder.backbone.norm": "generator.backbone.final_layer_norm",
    "decoder.head": "generator.head.out",
}
_TRANSFORMERS = {
    "semantic.model.feature_projection": "semantic_encoder.feature_projection",
    "semantic.model.layers.layers": "semantic_encoder.encoder.layers.#",
    "semantic.adapter": "semantic_adapter",
    "encoder.conv_in": "acoustic_encoder.conv1",
    "encoder.blocks.{b}.unit{u}.snake1": "acoustic_encoder.block.{b}.res_unit{u}.snake1.act",
    "encoder.blocks.{b}.unit{u}.conv1": "acoustic_encoder.block.{b}.res_unit{u}.conv1",
    "encoder.blocks.{b}.unit{u}.snake2": "acoustic_encoder.block.{b}.res_unit{u}.snake2.act",
    "encoder.blocks.{b}.unit{u}.conv2": "acoustic_encoder.block.{b}.res_unit{u}.conv2",
    "encoder.blocks.{b}.snake": "acoustic_encoder.block.{b}.snake1.act",
    "encoder.blocks.{b}.conv": "acoustic_encoder.block.{b}.conv1",
    "encoder.snake": "acoustic_encoder.snake1.act",
    "encoder.conv_out": "acoustic_encoder.conv2",
    "fc_prior": "fc_encoder",
    "quantizer": "quantizer",
    "fc_post": "acoustic_decoder.fc",
    "decoder.embed": "acoustic_decoder.embed",
    "decoder.backbone.prior.layers": "acoustic_decoder.prior_net.#",
    "decoder.backbone.transformers.layers.att_norm": "acoustic_decoder.layers.#.input_layernorm",
    "decoder.backbone.transformers.layers.c_attn": "acoustic_decoder.layers.#.self_attn.[qkv]_proj",
    "decoder.backbone.transformers.layers.c_proj": "acoustic_decoder.layers.#.self_attn.o_proj",
    "decoder.backbone.transformers.layers.ffn_norm": (
        "acoustic_decoder.layers.#.post_attention_layernorm"
    ),
    "decoder.backbone.transformers.layers.fc1": "acoustic_decoder.layers.#.mlp.fc1",
    "decoder.backbone.transformers.layers.fc2": "acoustic_decoder.layers.#.mlp.fc2",
    "decoder.backbone.post.layers": "acoustic_decoder.post_net.#",
    "decoder.backbone.norm": "acoustic_decoder.norm",
    "decoder.head": "acoustic_decoder.head.linear",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "distance_embedding": "distance_embedding.weight",
    "depthwise_conv": "depthwise_conv.weight",
    "embed_tokens": "embed_tokens.weight",
    "embed_positions": "embed_positions.weight",
    "relative_attention_bias": "relative_attention_bias.weight",
    "mean": "running_mean",
    "variance": "running_var",
}
_WEIGHT_NORMED = {"kernel": "weight_v", "gain": "weight_g"}


def modules(layout: Layout, config: CodecConfig) -> dict[str, str]:
    """Our modules, or what several of them start with, and theirs; one of them matches each key."""
    rows = (_ORIGINAL if layout == "xcodec2" else _TRANSFORMERS).items()
    places = [(b, u) for b in range(len(config.conv.strides)) for u in range(3)]
    numbers = [{"b": b, "c": b + 1, "u": u + 1, "t": u} for b, u in places]
    return {ours.format(**n): theirs.format(**n) for ours, theirs in rows for n in numbers}


def views(table: dict[str, str], key: str, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Our `tensor` as theirs, by their names: views, to be read or to be written into.

    A kernel of theirs is one of ours with its axes reversed. Only the original has weight norm:
    elsewhere a kernel holds the whole weight, and its gain has no name.
    """
    ours = next(module for module in table if key.startswith(f"{module}."))
    theirs = table[ours]
    if "#" in theirs:
        layers = [views({ours: theirs.replace("#", str(i))}, key, x) for i, x in enumerate(tensor)]
        return {name: view for layer in layers for name, view in layer.items()}
    if "[qkv]" in theirs:
        parts = zip("qkv", np.split(tensor, 3, -1), strict=True)
        each = [views({ours: theirs.replace("[qkv]", x)}, key, part) for x, part in parts]
        return {name: view for part in each for name, view in part.items()}
    *inner, leaf = key.removeprefix(f"{ours}.").split(".")
    normed = theirs.startswith("CodecEnc.")
    if leaf == "gain" and not normed:
        return {}
    leaves = _LEAVES | (_WEIGHT_NORMED if normed else {})
    name = ".".join([theirs, *inner, leaves.get(leaf, leaf)])
    if leaf == "kernel":
        tensor = tensor.T[..., None] if "pointwise" in key else tensor.T
    elif leaf == "depthwise_conv":
        tensor = tensor.T[:, None]
    elif leaf == "gain":
        tensor = tensor[:, None, None]
    return {name: tensor}


def check_tensors(
    weights: Weights, table: dict[str, str], leaves: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of their tensors that our `leaves`, by key, are made of.

    What is missing or misshaped is known so before the first tensor is read.

    Raises:
        UserError: naming the first of them that is missing or has another shape.
    """
    nothing = {key: np.broadcast_to(np.float32(0), leaf.shape) for key, leaf in leaves.items()}
    shapes = {
        name: view.shape
        for key, tensor in nothing.items()
        for name, view in views(table, key, tensor).items()
    }
    for name, shape in shapes.items():
        weights.check(name, shape)
    return shapes


def take_tensors(
    weights: Weights, table: dict[str, str], leaves: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Our tensors by key, float32, read from theirs one by one."""
    flat = {}
    for key, leaf in track(leaves.items(), "read", len(leaves), "tensors"):
        flat[key] = np.empty(leaf.shape, np.float32)
        for name, view in views(table, key, flat[key]).items():
            view[...] = weights.take(name, view.shape)
    return flat
