"""`llasa convert`: published checkpoints into model folders, and a model's parts out again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, DecoderConfig, RecogniserConfig, SpeakerConfig, to_dict
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part, save_part
from llasa_jax.interop.layouts import Layout
from llasa_jax.interop.llama import NewRows, export_llama, import_llama
from llasa_jax.interop.weights import SHARD_BYTES, Storage, Weights
from llasa_jax.interop.xcodec2 import codec_layout, export_codec, import_codec
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.recipes.stages import (
    SAMPLING,
    codec_config,
    load_language,
    load_sampling,
    write_json,
)
from llasa_jax.verifiers.recogniser import Recogniser
from llasa_jax.verifiers.speaker import SpeakerEncoder

PARTS = {
    "codec": (CodecConfig, Codec),
    "lm": (DecoderConfig, Decoder),
    "recogniser": (RecogniserConfig, Recogniser),
    "speaker": (SpeakerConfig, SpeakerEncoder),
}
LLAMA = "model.embed_tokens.weight"  # a tensor of every language model's checkpoint


def convert(
    source: Path,
    out: Path,
    layout: Layout | Literal["llasa", "llama"] = "llasa",
    *,
    storage: Storage | Literal["float16"] | None = None,
    shard_bytes: int = SHARD_BYTES,
    codes: int | None = None,
    rows: NewRows = "normal",
) -> None:
    """Writes a codec or a language model in another layout.

    Args:
        source: a model folder of ours, a folder in a published layout, or a checkpoint file.
        out: for layout "llasa" a model folder, which may hold other parts; else a new folder.
        layout: "xcodec2", "transformers" and "neucodec" are a codec's, "llama" is a language
            model's; "llasa" is ours, for either.
        storage: of weights in layout "llama" (float32). "float16" is of layout "llasa": a copy of
            a whole model folder of ours in half precision, as the package carries one.
        shard_bytes: weights in layout "llama" over this size become several files.
        codes, rows: as of `import_llama`, for a text Llama; without `codes`, as many as the codec
            in `out` has.

    Raises:
        UserError: if the source is no whole model, the layout has no place for it, or `out` holds
            something that would be lost. Nothing is written then.
    """
    if layout != "llasa" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; give a new folder")
    folder = next((f for f in (source, source / "model") if _is_ours(f)), None)
    if storage == "float16":
        if folder is None or layout != "llasa":
            raise UserError(f"--dtype float16: copies a model folder of ours, {source} is none")
        _copy_half(folder, out)
        log(f"{source}: copied to {out} in half precision")
        return
    weights = Weights(source) if folder is None else None
    if weights is None:
        if layout == "llasa":
            raise UserError(f"{source}: is in layout llasa already; name another with --layout")
        kind = "llama" if layout == "llama" else "codec"
    elif codec_layout(weights) is not None:
        kind = "codec"
    elif LLAMA in weights:
        kind = "llama"
    else:
        raise UserError(f"{source}: holds neither an X-Codec2 or NeuCodec nor a Llama")
    if storage is not None and layout != "llama":
        raise UserError("--dtype: is for --layout llama; the other layouts hold float32")
    if layout != "llasa" and (layout == "llama") != (kind == "llama"):
        raise UserError(f"{source}: is a {kind}, which layout {layout} does not hold")
    if kind == "codec":
        _convert_codec(folder, weights, out, layout)
    else:
        config, params, vocabulary = _language(folder, source, out, layout, codes, rows)
        if layout == "llasa":
            _keep_language(out, config, params, vocabulary)
        else:
            options = {"storage": storage or "float32", "shard_bytes": shard_bytes}
            _whole(out, lambda made: export_llama(made, config, params, vocabulary, **options))
    log(f"{source}: written to {out} in layout {layout}")


def _copy_half(folder: Path, out: Path) -> None:
    """All parts of a model folder and its tokenizer; voices belong to the codec's very bytes."""
    for name, (kind, module) in PARTS.items():
        if (folder / f"{name}.safetensors").is_file():
            _require_absent(out, f"{name}.safetensors")
            config, params, about = load_part(
                folder, name, kind, lambda c, r, m=module: m(c, rngs=r)
            )
            save_part(out, name, config, params, about, half=True)
    if (folder / "tokenizer.json").is_file():
        Vocabulary.load(folder).save(out)
    if (folder / SAMPLING).is_file():
        write_json(out / SAMPLING, to_dict(load_sampling(folder)))


def _convert_codec(folder: Path | None, weights: Weights | None, out: Path, layout: str) -> None:
    if layout == "llasa":
        _require_absent(out, "codec.safetensors")
    if folder is not None:
        build = lambda config, rngs: Codec(config, rngs=rngs)  # noqa: E731
        config, params, _ = load_part(folder, "codec", CodecConfig, build)
        about = {}
    else:
        found = import_codec(weights)
        config, params = found.config, found.params
        about = {"converted_from": found.layout, "ignored": found.ignored}
        log(
            f"{weights.path}: layout {found.layout}, {nn.parameter_count(params) / 1e6:.1f} M "
            f"parameters; of training only, ignored: {', '.join(found.ignored) or 'nothing'}"
        )
    if layout == "llasa":
        save_part(out, "codec", config, params, about)
    else:
        _whole(out, lambda made: export_codec(made, layout, config, params))


def _language(
    folder: Path | None, source: Path, out: Path, layout: str, codes: int | None, rows: NewRows
) -> tuple[DecoderConfig, dict, Vocabulary]:
    if layout == "llasa":
        _require_absent(out, "lm.safetensors")
    if folder is not None:
        return load_language(folder)[:3]
    wanted = codes
    if codes is None and (out / "codec.safetensors").is_file():
        wanted = codec_config(out).codebook_size
    config, params, vocabulary = import_llama(source, wanted, rows)
    if codes not in (None, config.codes):
        raise UserError(f"--codes {codes}: {source} has {config.codes} of its own already")
    return config, params, vocabulary


def _keep_language(out: Path, config: DecoderConfig, params: dict, vocabulary: Vocabulary) -> None:
    if (out / "tokenizer.json").exists() and Vocabulary.load(out).hash != vocabulary.hash:
        raise UserError(f"{out}: has another tokenizer; give another folder")
    vocabulary.save(out)
    save_part(out, "lm", config, params, {"converted_from": "llama"})


def _is_ours(folder: Path) -> bool:
    return any((folder / f"{part}.safetensors").is_file() for part in ("codec", "lm"))


def _require_absent(folder: Path, name: str) -> None:
    if (folder / name).exists():
        raise UserError(f"{folder / name}: exists already; give another folder")


def _whole(out: Path, write: Callable[[Path], Any]) -> None:
    """`write(folder)`, renamed to `out` when it is done: the whole folder or nothing."""
    made = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        write(made)
        made.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
