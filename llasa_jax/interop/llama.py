"""The language model as a plain `LlamaForCausalLM` folder, out and in.

What is written here, transformers and vLLM load as it is; the released Llasa folders have the same
layout. Rows that only pad the vocabulary are left out, and are added again on the way in.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from einops import rearrange

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, from_dict
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.weights import (
    SHARD_BYTES,
    Storage,
    Weights,
    read_json,
    write_checkpoint,
    write_json,
)
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import BEGIN, EOT, HEADER, HEADER_END, SYSTEM, Vocabulary

LARGEST_SIZE = 1 << 18  # of any dimension of a model that is read
MAX_POSITIONS = 131072  # as the released models say; rotary positions themselves know no end

# Ours -> (theirs, our axes, their axes), for each layer and for the rest.
LAYER = {
    "attention_norm.scale": ("input_layernorm", "D", "D"),
    "attention.q": ("self_attn.q_proj", "D N H", "(N H) D"),
    "attention.k": ("self_attn.k_proj", "D N H", "(N H) D"),
    "attention.v": ("self_attn.v_proj", "D N H", "(N H) D"),
    "attention.out": ("self_attn.o_proj", "N H D", "D (N H)"),
    "ffn_norm.scale": ("post_attention_layernorm", "D", "D"),
    "ffn.gate.kernel": ("mlp.gate_proj", "D F", "F D"),
    "ffn.up.kernel": ("mlp.up_proj", "D F", "F D"),
    "ffn.down.kernel": ("mlp.down_proj", "F D", "D F"),
}
OUTER = {
    "embedding": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "head": "lm_head.weight",
}
STACK = "layers.layers."
TABLES = ("embedding", "head")  # one row an id

NewRows = Literal["normal", "mean"]

CHAT_TEMPLATE = (
    "{{- '" + f"{BEGIN}{HEADER}system{HEADER_END}\n\n{SYSTEM}".replace("\n", r"\n") + "' }}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- messages[0]['content'] | trim }}{%- set messages = messages[1:] %}{%- endif %}"
    "{{- '" + EOT + "' }}"
    "{%- for message in messages %}"
    "{{- '" + HEADER + "' + message['role'] + '" + HEADER_END + r"\n\n" + "' }}"
    "{{- message['content'] | trim + '" + EOT + "' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '" + HEADER + "assistant" + HEADER_END + r"\n\n" + "' }}{%- endif %}"
)


def export_llama(
    folder: str | Path,
    config: DecoderConfig,
    params: dict,
    vocabulary: Vocabulary,
    *,
    storage: Storage = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes weights, config, generation config and tokenizer with chat template into `folder`.

    Args:
        storage: of the weights; bfloat16 is what vLLM and others compute in anyway.
        shard_bytes: weights over this size become several files with an index.

    Raises:
        UserError: if the vocabulary is not the model's, or the folder cannot be written.
    """
    folder = Path(folder)
    if vocabulary.size != config.vocab:
        raise UserError(f"{folder}: the model has {config.vocab} ids, not {vocabulary.size}")
    tensors = llama_tensors(config, params)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary.save(folder)
        write_json(folder / "tokenizer_config.json", _tokenizer_config())
        write_json(folder / "generation_config.json", _generation_config(vocabulary))
        ids = {
            "bos_token_id": vocabulary.tokenizer.token_to_id(BEGIN),
            "eos_token_id": vocabulary.speech_end,
        }
        settings = llama_settings(config) | ids | {"torch_dtype": storage}
        write_json(folder / "config.json", settings)
        write_checkpoint(folder, tensors, storage, shard_bytes)
    except OSError as error:
        raise UserError(f"cannot write the model to {folder}: {error.strerror}") from error


def llama_tensors(config: DecoderConfig, params: dict) -> dict[str, np.ndarray]:
    """The parameters under the names and in the shapes of `LlamaForCausalLM`'s state."""
    flat = flatten(jax.device_get(params))
    tensors = {OUTER["embedding"]: np.asarray(flat["embedding"])[: config.vocab]}
    for i in range(config.layers):
        for ours, (theirs, axes, turned) in LAYER.items():
            name = f"model.layers.{i}.{theirs}.weight"
            tensors[name] = rearrange(np.asarray(flat[STACK + ours][i]), f"{axes} -> {turned}")
    tensors[OUTER["norm.scale"]] = np.asarray(flat["norm.scale"])
    if "head" in flat:
        tensors[OUTER["head"]] = np.asarray(flat["head"])[: config.vocab]
    return tensors


def import_llama(
    folder: str | Path, codes: int | None = None, rows: NewRows = "normal"
) -> tuple[DecoderConfig, dict, Vocabulary]:
    """Configuration, float32 parameters and vocabulary of a folder in the Hugging Face layout.

    Args:
        codes: extends a text Llama, whose tokenizer has no tags, to begin the training of a speech
            model with it: the tags and so many speech ids are appended, with rows of their own. A
            speech model is read as it is.
        rows: what these begin with: normal numbers of deviation 0.02, as transformers'
            `resize_token_embeddings` gives before 4.46, or the mean of all text rows, as it gives,
            nearly, since.

    Raises:
        UserError: if a file is missing or broken, the architecture is another one, or a tensor is
            missing, left over, of another shape or not finite; the message names it.
    """
    folder = Path(folder)
    vocabulary = Vocabulary.load(folder, codes)
    weights = Weights(folder)
    path = folder / "config.json"
    settings = read_json(path)
    extends = codes is not None and settings.get("vocab_size") == vocabulary.text_vocab
    stored = vocabulary.text_vocab if extends else vocabulary.size
    config = _read_config(path, settings, stored, vocabulary, weights)
    # Before anything of these sizes is made.
    weights.check(OUTER["embedding"], (stored, config.dim))
    if max(config.layers, config.ffn, config.heads * config.head_dim) > LARGEST_SIZE:
        raise UserError(f"{path}: a size is over {LARGEST_SIZE}, of no model that can be read")
    _, template = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    flat = {}
    for ours, leaf in flatten(template).items():
        if ours in TABLES:
            table = weights.take(OUTER[ours], (stored, config.dim))
            flat[ours] = _filled(table, config, rows, TABLES.index(ours))
            continue
        if ours in OUTER:
            flat[ours] = weights.take(OUTER[ours], leaf.shape)
            continue
        theirs, axes, turned = LAYER[ours.removeprefix(STACK)]
        sizes = dict(zip(axes.split(), leaf.shape[1:], strict=True))
        shape = rearrange(np.zeros(leaf.shape[1:], bool), f"{axes} -> {turned}").shape
        names = [f"model.layers.{i}.{theirs}.weight" for i in range(config.layers)]
        layers = [weights.take(name, shape) for name in names]
        flat[ours] = np.stack([rearrange(x, f"{turned} -> {axes}", **sizes) for x in layers])
    weights.finish()
    return config, unflatten(template, flat), vocabulary


def _filled(table: np.ndarray, config: DecoderConfig, rows: NewRows, seed: int) -> np.ndarray:
    """A table of text rows with the new ids' rows and the rows that only pad it."""
    filled = np.zeros((config.padded_vocab, config.dim), np.float32)
    filled[: len(table)] = table
    new = filled[len(table) : config.vocab]
    if rows == "mean":
        new[:] = table.mean(axis=0, dtype=np.float64)
    else:
        new[:] = 0.02 * np.random.default_rng(seed).standard_normal(new.shape, np.float32)
    return filled


def _read_config(
    path: Path, found: dict, stored: int, vocabulary: Vocabulary, weights: Weights
) -> DecoderConfig:
    """The settings `found` in `config.json`, with the numbers of ids from the tokenizer.

    Args:
        stored: rows of the tables.
    """
    # Settings that this decoder has no other value for; absent means the value here.
    fixed = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "quantization_config": None,
        "vocab_size": stored,
    }
    for key, value in fixed.items():
        if found.get(key, value) != value:
            raise UserError(f"{path}: {key} is {found[key]!r}, only {value!r} can be read")
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{path}: the settings of rope are {rope!r:.100}, not by name")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{path}: rope_type {kind!r}, only 'default' and 'llama3' can be read")
    tied = found.get("tie_word_embeddings", False)
    if tied and OUTER["head"] in weights:
        # Some releases store the head of a tied model again: a copy is dropped, another one kept.
        tied = weights.drop_copy(OUTER["head"], OUTER["embedding"])
    try:
        heads, dim = found["num_attention_heads"], found["hidden_size"]
        scaling = None
        if kind == "llama3":
            scaling = {
                "factor": rope["factor"],
                "low_freq_factor": rope["low_freq_factor"],
                "high_freq_factor": rope["high_freq_factor"],
                "original_length": int(rope["original_max_position_embeddings"]),
            }
        values = {
            "dim": dim,
            "ffn": found["intermediate_size"],
            "layers": found["num_hidden_layers"],
            "heads": heads,
            "kv_heads": found.get("num_key_value_heads") or heads,
            "head_dim": found.get("head_dim") or dim // heads,
            "text_vocab": vocabulary.text_vocab,
            "codes": vocabulary.code_count,
            "rope_theta": rope.get("rope_theta", found.get("rope_theta", 10000.0)),
            "rope_scaling": scaling,
            "norm_eps": found["rms_norm_eps"],
            "tied_embeddings": tied,
        }
        return from_dict(DecoderConfig, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: lacks or breaks the setting {error}") from error


def llama_settings(config: DecoderConfig) -> dict[str, Any]:
    """What transformers' `LlamaConfig` is made of."""
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": config.vocab,
    }
    if config.rope_scaling is not None:
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_length,
        }
    return values


def _generation_config(vocabulary: Vocabulary) -> dict:
    """The sampler of the model cards; `generate` and vLLM stop at any of the ends."""
    return {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 1.0,
        "max_length": 2048,
        "bos_token_id": vocabulary.tokenizer.token_to_id(BEGIN),
        "eos_token_id": [vocabulary.speech_end, vocabulary.text_end, vocabulary.eot],
        "pad_token_id": vocabulary.eot,
    }


def _tokenizer_config() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": EOT,
        "pad_token": EOT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
