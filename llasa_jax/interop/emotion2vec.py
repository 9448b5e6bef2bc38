"""emotion2vec+ as FunASR publishes it: `model.pt`. Its tensors' shapes tell the settings."""

from pathlib import Path

from llasa_jax import nn
from llasa_jax.config import Emotion2vecConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.layouts import check_tensors, take_tensors
from llasa_jax.interop.weights import Weights
from llasa_jax.verifiers.emotion2vec import Emotion2vec
from llasa_jax.verifiers.wav2vec import CONVOLUTIONS

_AUDIO = "modality_encoders.AUDIO"
_POSITIONS = f"{_AUDIO}.relative_positional_encoder"
_PRENET = f"{_AUDIO}.context_encoder.blocks"
BACKBONE = "d2v_model."  # before every name but the classifier's, in fine-tuned checkpoints
TRAINING = (f"{_AUDIO}.decoder.", "recon_proj.", "_ema", "ema.", "shared_decoder.")


def table(position_layers: int) -> dict[str, str]:
    """Our modules, or what several of them start with, and theirs."""
    rows = {}
    for i in range(len(CONVOLUTIONS)):
        theirs = f"{_AUDIO}.local_encoder.conv_layers.{i}"
        rows[f"frames.conv_layers.{i}.conv"] = f"{theirs}.0"
        rows[f"frames.conv_layers.{i}.layer_norm"] = f"{theirs}.2.1"
    rows["frames.layer_norm"] = f"{_AUDIO}.project_features.1"
    rows["frames.projection"] = f"{_AUDIO}.project_features.2"
    for i in range(position_layers):
        rows[f"positions.{i}.conv"] = f"{_POSITIONS}.{i + 1}.0"
    for ours, theirs in (("context.layers.layers", f"{_PRENET}.#"), ("layers.layers", "blocks.#")):
        rows |= {
            f"{ours}.attention.qkv": f"{theirs}.attn.qkv",
            f"{ours}.attention.out_proj": f"{theirs}.attn.proj",
            f"{ours}.layer_norm": f"{theirs}.norm1",
            f"{ours}.final_layer_norm": f"{theirs}.norm2",
            ours: f"{theirs}.mlp",
        }
    rows["context.norm"] = f"{_AUDIO}.context_encoder.norm"
    rows["context"] = _AUDIO  # extra_tokens, alibi_scale
    rows["proj"] = "proj"
    return rows


def import_emotion2vec(path: Path) -> tuple[Emotion2vecConfig, dict]:
    """Configuration and float32 parameters of a released emotion2vec+.

    Raises:
        UserError: if the file is missing or broken, or a tensor is missing, left over, of another
            shape or not finite; the message names it.
    """
    weights = Weights(Path(path))
    for name in weights.names():
        if name.startswith(BACKBONE):
            weights.rename(name, name.removeprefix(BACKBONE))
    for name in weights.names():
        if name.startswith(TRAINING):
            weights.drop(name)
    config = _config_of(weights)
    _, template = nn.abstract(lambda rngs: Emotion2vec(config, rngs=rngs))
    leaves, rows = flatten(template), table(config.position_layers)
    check_tensors(weights, rows, leaves)
    params = unflatten(template, take_tensors(weights, rows, leaves))
    weights.finish()
    return config, params


def _config_of(weights: Weights) -> Emotion2vecConfig:
    def count(pattern: str, first: int = 0) -> int:
        number = first
        while pattern.format(number) in weights:
            number += 1
        return number - first

    shapes = [
        weights.shape(name)
        for name in (
            "blocks.0.mlp.fc1.weight",
            f"{_AUDIO}.project_features.2.weight",
            f"{_AUDIO}.alibi_scale",
            f"{_AUDIO}.extra_tokens",
            f"{_POSITIONS}.1.0.weight",
            "proj.weight",
        )
    ]
    try:
        (ffn, dim), (_, channels), scale, extra, (_, part, width), (classes, _) = shapes
        return Emotion2vecConfig(
            channels=channels,
            dim=dim,
            ffn=ffn,
            heads=scale[2],
            layers=count("blocks.{}.mlp.fc1.weight"),
            prenet=count(_PRENET + ".{}.mlp.fc1.weight"),
            position_width=width,
            position_groups=dim // part,
            position_layers=count(_POSITIONS + ".{}.0.weight", 1),
            extra=extra[1],
            classes=classes,
        )
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{weights.path}: its tensors are of no emotion2vec+") from error
