"""Whisper's released weights, in transformers' layout: a folder with weights, settings, tokenizer.

`WhisperForConditionalGeneration` as openai/whisper-* and its descendants publish it.
"""

from pathlib import Path

from llasa_jax import nn
from llasa_jax.config import WhisperConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.layouts import check_tensors, take_tensors
from llasa_jax.interop.weights import Weights, read_json, read_settings
from llasa_jax.lm.vocabulary import read_tokenizer
from llasa_jax.verifiers.whisper import Whisper, WhisperVocabulary

TABLE = {
    "encoder.layers.layers": "model.encoder.layers.#",
    "encoder": "model.encoder",
    "decoder.layers.layers": "model.decoder.layers.#",
    "decoder": "model.decoder",
}
FIXED = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
MULTILINGUAL = 51865  # ids, or more; the English-only models have one fewer


def import_whisper(
    folder: Path, *, language: str = "en"
) -> tuple[WhisperConfig, dict, WhisperVocabulary]:
    """Configuration, float32 parameters and vocabulary of a released Whisper.

    Args:
        language: what is spoken, such as "en" or "zh"; English-only models know no other.

    Raises:
        UserError: if a file is missing or broken, the settings are another model's, or a tensor is
            missing, left over, of another shape or not finite; the message names it.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    weights = Weights(folder)
    if not weights.drop_copy("proj_out.weight", "model.decoder.embed_tokens.weight"):
        if "proj_out.weight" in weights:
            raise UserError(f"{folder}: proj_out is no copy of embed_tokens; another architecture")
    _, template = nn.abstract(lambda rngs: Whisper(config, rngs=rngs))
    leaves = flatten(template)
    check_tensors(weights, TABLE, leaves)
    params = unflatten(template, take_tensors(weights, TABLE, leaves))
    weights.finish()
    return config, params, _read_vocabulary(folder, config, language)


def _read_config(path: Path) -> WhisperConfig:
    with read_settings(path, FIXED) as found:
        sizes = ("heads", "attention_heads"), ("ffn", "ffn_dim")
        for ours, theirs in sizes:
            if found[f"encoder_{theirs}"] != found[f"decoder_{theirs}"]:
                raise UserError(f"{path}: encoder and decoder differ in {ours}; not read")
        return WhisperConfig(
            mel_bins=found["num_mel_bins"],
            dim=found["d_model"],
            ffn=found["encoder_ffn_dim"],
            heads=found["encoder_attention_heads"],
            encoder_layers=found["encoder_layers"],
            decoder_layers=found["decoder_layers"],
            vocab=found["vocab_size"],
            frames=found["max_source_positions"],
            positions=found["max_target_positions"],
        )


def _read_vocabulary(folder: Path, config: WhisperConfig, language: str) -> WhisperVocabulary:
    path = folder / "tokenizer.json"
    tokenizer = read_tokenizer(path)
    settings = folder / "generation_config.json"
    rules = read_json(settings if settings.is_file() else folder / "config.json")
    multilingual = rules.get("is_multilingual", config.vocab >= MULTILINGUAL)
    if not multilingual and language != "en":
        raise UserError(f"{folder}: knows English only, not {language!r}; take another Whisper")
    banned = [_ids(settings, rules, name) for name in ("suppress_tokens", "begin_suppress_tokens")]
    vocabulary = WhisperVocabulary(
        tokenizer,
        language=language if multilingual else None,
        banned=banned[0],
        banned_first=banned[1],
    )
    ids = [*vocabulary.prefix.tolist(), vocabulary.end, *banned[0], *banned[1]]
    if not 0 <= min(ids) <= max(ids) < config.vocab:
        raise UserError(f"{path}: has ids past the model's {config.vocab}; another model's?")
    return vocabulary


def _ids(path: Path, rules: dict, name: str) -> tuple[int, ...]:
    found = rules.get(name) or []
    if not isinstance(found, list) or not all(type(i) is int for i in found):
        raise UserError(f"{path}: {name} is no list of ids")
    return tuple(found)
