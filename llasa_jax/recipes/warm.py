"""What a training begins with instead of random numbers: `--init FOLDER` of `llasa train` and
`llasa codec train`."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, DecoderConfig, DecoderRun, RecogniserConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part
from llasa_jax.interop.llama import import_llama
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.verifiers.recogniser import OUTPUTS, Recogniser

# Of how a model computes, not of what it computes: a run may choose them anew.
FREE = ("attention", "attention_blocks", "compute_dtype", "remat", "scan_layers", "unseen", "lora")
PADDING = "vocab_multiple"


def starting_parameters(folder: Path, run: DecoderRun, vocabulary: Vocabulary) -> dict:
    """The parameters of a language model in `folder`, as host arrays.

    It is a model folder, or one in Llama's layout as `llasa convert` and Hugging Face have it. A
    Llama of text alone gets rows for the tags and codes, by `run.new_rows`: the paper's warm start.

    Raises:
        UserError: if there is no such model, its shapes are not those of `run.lm`, or its tokenizer
            is not `vocabulary`, that of the token rows.
    """
    ours = _holding(folder, "lm")
    if (ours / "lm.safetensors").is_file():
        build = lambda config, rngs: Decoder(config, rngs=rngs)  # noqa: E731
        found, params, _ = load_part(ours, "lm", DecoderConfig, build)
        made_with = Vocabulary.load(ours)
    else:
        found, params, made_with = import_llama(folder, run.lm.codes, run.new_rows)
    names = [field.name for field in fields(DecoderConfig) if field.name not in (*FREE, PADDING)]
    _ensure_alike(folder, "lm", found, run.lm, names)
    if made_with.hash != vocabulary.hash:
        raise UserError(
            f"{folder}: its tokenizer is not the one of the token rows; make them with "
            f"`llasa data prepare ... --tokenizer {folder}`"
        )
    rows, padding = run.lm.vocab, run.lm.padded_vocab - run.lm.vocab
    tables = {name: params[name] for name in ("embedding", "head") if name in params}
    padded = {name: np.pad(t[:rows], ((0, padding), (0, 0))) for name, t in tables.items()}
    return params | padded


def starting_codec(folder: Path, config: CodecConfig) -> dict:
    """The parameters of the codec in `folder`, as host arrays.

    Raises:
        UserError: if there is none, or its shapes are not those of `config`.
    """
    build = lambda c, rngs: Codec(c, rngs=rngs)  # noqa: E731
    found, params, _ = load_part(_holding(folder, "codec"), "codec", CodecConfig, build)
    names = [field.name for field in fields(CodecConfig) if field.name != "compute_dtype"]
    _ensure_alike(folder, "codec", found, config, names)
    return params


def starting_recogniser(folder: Path, config: RecogniserConfig) -> dict:
    """The parameters of the recogniser in `folder`, as host arrays, for the alphabet of `config`.

    A character that it knows keeps its output; a new one's is zero.

    Raises:
        UserError: if there is none, or its shapes are not those of `config`.
    """
    build = lambda c, rngs: Recogniser(c, rngs=rngs)  # noqa: E731
    where = _holding(folder, "recogniser")
    found, params, _ = load_part(where, "recogniser", RecogniserConfig, build)
    known = found.alphabet
    names = [field.name for field in fields(RecogniserConfig)]
    _ensure_alike(folder, "recogniser", replace(found, alphabet=config.alphabet), config, names)
    places = [0] + [known.find(character) + 1 for character in config.alphabet]  # 0 is the blank
    new = [False] + [character not in known for character in config.alphabet]

    def chosen(table: np.ndarray) -> np.ndarray:
        outputs = table.reshape(*table.shape[:-1], OUTPUTS, 1 + len(known))[..., places]
        return np.where(new, 0, outputs).reshape(*table.shape[:-1], -1)

    return params | {"head": {name: chosen(table) for name, table in params["head"].items()}}


def _holding(folder: Path, part: str) -> Path:
    """`folder`, or its `model` sub-folder if only that one holds the part."""
    found = (f for f in (folder, folder / "model") if (f / f"{part}.safetensors").is_file())
    return next(found, folder)


def _ensure_alike(folder: Path, part: str, found: Any, wanted: Any, names: list[str]) -> None:
    """UserError naming the first setting that differs."""
    for name in names:
        held, asked = getattr(found, name), getattr(wanted, name)
        if held != asked:
            raise UserError(
                f"{folder}: {part}.{name} is {held} there, {asked} in the configuration"
            )
