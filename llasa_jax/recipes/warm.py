"""What a training begins with instead of random numbers: `llasa train --init FOLDER`."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from llasa_jax.config import DecoderConfig, DecoderRun
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part
from llasa_jax.interop.llama import import_llama
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary

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
    ours = next((f for f in (folder, folder / "model") if (f / "lm.safetensors").is_file()), None)
    if ours is not None:
        build = lambda config, rngs: Decoder(config, rngs=rngs)  # noqa: E731
        found, params, _ = load_part(ours, "lm", DecoderConfig, build)
        made_with = Vocabulary.load(ours)
    else:
        found, params, made_with = import_llama(folder, run.lm.codes, run.new_rows)
    names = [field.name for field in fields(DecoderConfig) if field.name not in (*FREE, PADDING)]
    for name in names:
        held, wanted = getattr(found, name), getattr(run.lm, name)
        if held != wanted:
            raise UserError(f"{folder}: lm.{name} is {held} there, {wanted} in the configuration")
    if made_with.hash != vocabulary.hash:
        raise UserError(
            f"{folder}: its tokenizer is not the one of the token rows; make them with "
            f"`llasa data prepare ... --tokenizer {folder}`"
        )
    rows, padding = run.lm.vocab, run.lm.padded_vocab - run.lm.vocab
    tables = {name: params[name] for name in ("embedding", "head") if name in params}
    padded = {name: np.pad(t[:rows], ((0, padding), (0, 0))) for name, t in tables.items()}
    return params | padded
