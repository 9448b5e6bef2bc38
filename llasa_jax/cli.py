"""The command `llasa`: parses and calls, nothing else."""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llasa_jax import __version__
from llasa_jax.codec.lengths import LENGTHS
from llasa_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Wrong usage is one line and exit status 2, as every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 something is wrong with what was to be
    checked, 2 refused, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = make_parser().parse_args(given)
        return options.run(options) or 0
    except UserError as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"llasa: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if "--debug" in given:
            traceback.print_exc()
        place, reason = error.filename or "a file", error.strerror or error
        print(f"llasa: error: {place}: {reason}; what was done before is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llasa: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="llasa", description="Llasa text to speech in JAX.")
    parser.add_argument("--version", action="version", version=f"llasa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _quickstart(commands)
    _say(commands)
    _codec(commands)
    _data(commands)
    _train(commands)
    _convert(commands)
    _plan(commands)
    _eval(commands)
    _bench(commands)
    return parser


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a file, or the name of one in configs/")
    help = "override a setting, e.g. train.steps=200; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=help)


def _quickstart(commands) -> None:
    text = "Train a small codec and language model on real and synthetic speech, and report."
    parser = _command(commands, "quickstart", _run_quickstart, text)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all of it (15)")
    help = "a built-in corpus or a folder of recordings with texts (default: English)"
    parser.add_argument("--corpus", default=None, help=help)
    _seed(parser)


def _run_quickstart(options) -> None:
    from llasa_jax.recipes.quickstart import quickstart

    quickstart(options.out, options.minutes, options.corpus, options.seed)


def _say(commands) -> None:
    parser = _command(commands, "say", _run_say, "Speak a text into a file.")
    parser.add_argument("text", help="what to say")
    parser.add_argument("--model", type=Path, default=Path("runs/quickstart"), help="model folder")
    parser.add_argument("-o", "--out", type=Path, default=Path("out.wav"), help=".wav or .flac")
    parser.add_argument("--candidates", type=int, default=4, help="takes to choose from (4)")
    parser.add_argument("--voice", default=None, help="one of the model's voices")
    parser.add_argument("--json", action="store_true", help="print the search's record as JSON")
    _seed(parser)


def _run_say(options) -> None:
    from llasa_jax.recipes.voice import say

    record = say(
        options.text,
        model=options.model,
        out=options.out,
        candidates=options.candidates,
        voice=options.voice,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps(record, sort_keys=True))


def _codec(commands) -> None:
    text = "Train the codec, or turn recordings into codes and back."
    codec = _command(commands, "codec", None, text)
    parts = codec.add_subparsers(dest="part", required=True, metavar="PART")
    train = _command(parts, "train", _run_codec_train, "Train a codec on a prepared corpus.")
    _settings(train)
    train.add_argument("--store", type=Path, required=True, help="prepared corpus")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    help = "time for it; a machine too slow for the configured steps makes fewer"
    train.add_argument("--minutes", type=float, default=None, help=help)
    _seed(train)
    encode = _command(parts, "encode", _run_encode, "Recordings to codes: a .npy file for each.")
    help = "codes of N samples: floor(N / hop), as in training data, or as X-Codec2's package or "
    help += "transformers count, one more (docs/codec.md)"
    encode.add_argument("--length", choices=LENGTHS, default="training", help=help)
    decode = _command(parts, "decode", _run_decode, "Codes (.npy, integers [T]) to .wav files.")
    help = "decode as a stream does, so much at a time (default: whole files, to 30 seconds)"
    decode.add_argument("--chunk-seconds", type=float, default=None, help=help)
    for part in (encode, decode):
        part.add_argument("inputs", type=Path, nargs="+", help="files, or folders of them")
        part.add_argument("--model", type=Path, default=Path("runs/quickstart"), help="folder")
        part.add_argument("--out", type=Path, required=True, help="folder for the results")


def _run_codec_train(options) -> None:
    from llasa_jax.config import CodecRun, load_config
    from llasa_jax.data.store import WaveStore
    from llasa_jax.recipes.stages import train_codec
    from llasa_jax.recipes.start import start

    run = load_config(options.config, CodecRun, options.set)
    start(run.train)
    store = WaveStore.open(options.store)
    budget = None if options.minutes is None else 60 * options.minutes
    folder, model = options.out / "codec", options.out / "model"
    train_codec(run, store, folder, model, seed=options.seed, budget=budget)


def _run_encode(options) -> None:
    from llasa_jax.recipes.files import encode_files

    encode_files(options.inputs, options.model, options.out, options.length)


def _run_decode(options) -> None:
    from llasa_jax.recipes.files import decode_files

    decode_files(options.inputs, options.model, options.out, options.chunk_seconds)


def _data(commands) -> None:
    data = _command(commands, "data", None, "Prepare corpora for training, and look into them.")
    parts = data.add_subparsers(dest="part", required=True, metavar="PART")
    text = "Corpora to waves for training a codec; with --model, on to packed token rows."
    part = _command(parts, "prepare", _run_prepare, text)
    help = "built-in corpora, or folders; with --model also a configuration, by file or name"
    part.add_argument("what", nargs="+", metavar="WHAT", help=help)
    part.add_argument("--out", required=True, help="folder, or (token rows) a gs:// address")
    part.add_argument("--model", type=Path, default=None, help="folder with the codec")
    help = "of synthetic speech, for corpora that are spoken by programs (60)"
    part.add_argument("--minutes", type=float, default=None, help=help)
    help = "of everything random (0)"
    part.add_argument("--seed", type=int, default=None, help=help)
    help = "override a setting of token rows, e.g. row=512; may be repeated"
    part.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=help)
    help = "a Hugging Face tokenizer.json or its folder, to which the speech ids are added "
    help += "(default: the model's, else bytes)"
    part.add_argument("--tokenizer", type=Path, default=None, help=help)
    help = "processes on this machine (1); others, here or elsewhere, may run the same command"
    part.add_argument("--workers", type=int, default=1, help=help)
    help = (
        'run it as an Apache Beam pipeline, with Beam\'s own options ("--runner=FlinkRunner ...")'
    )
    part.add_argument("--beam", default=None, metavar="OPTIONS", help=help)

    text = "Find what is wrong with token rows, and how to mend it; exit status 1 if anything is."
    part = _command(parts, "check", _run_check, text)
    part.add_argument("folder", type=Path, help="of `data prepare`, or of the released layout")
    help = "folder with the tokenizer of the ids (default: the folder's own)"
    part.add_argument("--model", type=Path, default=None, help=help)
    part.add_argument("--json", action="store_true", help="print what was found as JSON")
    text = "Hours, speakers, lengths, codebook use and used positions of token rows, with plots."
    part = _command(parts, "stats", _run_stats, text)
    part.add_argument("folder", type=Path, help="of `data prepare`")
    part.add_argument("--out", type=Path, default=None, help="folder for plots and stats.json")
    part.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _run_check(options) -> int:
    from llasa_jax.data.check import check, lines
    from llasa_jax.lm.vocabulary import Vocabulary

    vocabulary = None if options.model is None else Vocabulary.load(options.model)
    found = check(options.folder, vocabulary)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))
    return 0 if found["good"] else 1


def _run_stats(options) -> None:
    from llasa_jax.evaluation.data_stats import data_stats, lines

    found = data_stats(options.folder, options.out)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_prepare(options) -> None:
    from llasa_jax.recipes.waves import prepare_rows, prepare_waves

    synthetic = {"minutes": options.minutes, "seed": options.seed}
    if options.model is None:
        extra = ("--set", options.set), ("--tokenizer", options.tokenizer)
        given = [name for name, value in extra if value]
        if given:
            raise UserError(f"data prepare: {given[0]} is for token rows; name the codec's --model")
        found = prepare_waves(options.what, Path(options.out), **synthetic)
    else:
        found = prepare_rows(
            options.what,
            options.out,
            options.model,
            assignments=options.set,
            tokenizer=options.tokenizer,
            workers=options.workers,
            beam=options.beam,
            **synthetic,
        )
    print(json.dumps(found, indent=1, sort_keys=True))


def _train(commands) -> None:
    text = "Train a language model on token rows; or a verifier on a prepared corpus."
    parser = _command(commands, "train", _run_train, text)
    _settings(parser)
    help = "of a language model: folder or gs:// address of token rows that `data prepare` wrote"
    parser.add_argument("--tokens", default=None, help=help)
    help = "of a recogniser or speaker encoder: prepared corpus"
    parser.add_argument("--store", type=Path, default=None, help=help)
    help = "folder with the codec; a verifier may make a new one (default: OUT/model)"
    parser.add_argument("--model", type=Path, default=None, help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    help = "model to begin with: a model folder, or a Llama in Hugging Face's layout, also of text"
    parser.add_argument("--init", type=Path, default=None, metavar="FOLDER", help=help)
    _seed(parser)


def _run_train(options) -> None:
    from llasa_jax.config import DecoderRun, RecogniserRun, SpeakerRun, load_config
    from llasa_jax.recipes.stages import model_folder, train_language, train_verifier
    from llasa_jax.recipes.start import start

    run = load_config(options.config, DecoderRun | RecogniserRun | SpeakerRun, options.set)
    wanted, other = ("tokens", "store") if isinstance(run, DecoderRun) else ("store", "tokens")
    if getattr(options, wanted) is None or getattr(options, other) is not None:
        raise UserError(f"train {options.config}: is trained on --{wanted}, not on --{other}")
    start(run.train)
    model = options.model or options.out / "model"
    if isinstance(run, DecoderRun):
        where = (options.tokens, options.out, model_folder(model))
        train_language(run, *where, seed=options.seed, init=options.init)
    else:
        train_verifier(run, options.store, options.out, model, seed=options.seed)


def _convert(commands) -> None:
    text = "Read a published codec or language model, or write one in a published layout."
    parser = _command(commands, "convert", _run_convert, text)
    help = "a model folder, a folder in a published layout, or a checkpoint file"
    parser.add_argument("source", type=Path, help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    help = "of the result: ours, X-Codec2's own, transformers' Xcodec2Model or NeuCodecModel, or a "
    help += "LlamaForCausalLM (default: llasa)"
    layouts = ("llasa", "xcodec2", "transformers", "neucodec", "llama")
    parser.add_argument("--layout", choices=layouts, default="llasa", help=help)
    help = "of the weights of --layout llama (float32)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None, help=help)
    help = "of a file of weights of --layout llama, at most (5)"
    parser.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help=help)
    help = "speech ids that a text Llama gets (default: as many as the codec in --out has)"
    parser.add_argument("--codes", type=int, default=None, help=help)
    help = "what a text Llama's new ids begin with: random numbers or its mean row (normal)"
    parser.add_argument("--rows", choices=("normal", "mean"), default="normal", help=help)


def _run_convert(options) -> None:
    from llasa_jax.recipes.convert import convert

    convert(
        options.source,
        options.out,
        options.layout,
        storage=options.dtype,
        shard_bytes=round(options.shard_gb * 1e9),
        codes=options.codes,
        rows=options.rows,
    )


def _eval(commands) -> None:
    evaluate = _command(commands, "eval", None, "Measure what was trained, and its peers.")
    parts = evaluate.add_subparsers(dest="part", required=True, metavar="PART")
    text = "Score a codec, Opus and Codec2 on the same held-out recordings."
    part = _command(parts, "codec", _run_eval_codec, text)
    help = "recordings, or folders of them, where there is no --store"
    part.add_argument("audio", type=Path, nargs="*", metavar="AUDIO", help=help)
    part.add_argument("--store", type=Path, default=None, help="prepared corpus")
    part.add_argument("--model", type=Path, default=Path("runs/quickstart"), help="folder")
    part.add_argument("--utterances", type=int, default=40, help="recordings to measure on (40)")
    help = "folder for a page to read and listen to, its figures and eval.json"
    part.add_argument("--out", type=Path, default=None, help=help)
    part.add_argument("--json", action="store_true", help="print every number as JSON")
    _seed(part)


def _run_eval_codec(options) -> None:
    from rich.console import Console

    from llasa_jax.evaluation.codec_report import console_table
    from llasa_jax.evaluation.page import json_bytes
    from llasa_jax.recipes.eval_codec import eval_codec

    found = eval_codec(
        options.model,
        store=options.store,
        audio=options.audio,
        utterances=options.utterances,
        out=options.out,
        seed=options.seed,
    )
    if options.json:
        print(json_bytes(found).decode(), end="")
    else:
        Console().print(console_table(found))


def _plan(commands) -> None:
    text = "Compile a training step for TPUs that are not there: memory, collectives, time."
    parser = _command(commands, "plan", _run_plan, text)
    _settings(parser)
    parser.add_argument("--topology", required=True, help="chip and grid, as v5p:4x4x4")
    parser.add_argument("--slices", type=int, default=1, help="so many of that grid (1)")
    help = "what to compile (default: train, the language model; encode: the codec's encoder)"
    programs = ("train", "codec", "encode")
    parser.add_argument("--program", choices=programs, default="train", help=help)
    help = "tokens of a step on all chips, a codec's codes (default: the configuration's)"
    parser.add_argument("--batch-tokens", type=int, default=None, metavar="TOTAL", help=help)
    help = "try meshes, remat policies and rows at once, and print the fastest that fits"
    parser.add_argument("--search", action="store_true", help=help)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _run_plan(options) -> None:
    from llasa_jax.recipes.plan import plan, table

    found = plan(
        options.config,
        options.program,
        options.topology,
        slices=options.slices,
        batch_tokens=options.batch_tokens,
        assignments=options.set,
        best=options.search,
    )
    print(json.dumps(found, sort_keys=True) if options.json else table(found))


def _bench(commands) -> None:
    bench = _command(commands, "bench", None, "Time parts of the system against their peers.")
    parts = bench.add_subparsers(dest="part", required=True, metavar="PART")
    text = "The codec against transformers' Xcodec2Model: same weights, same waves, float32."
    part = _command(parts, "codec", _run_bench_codec, text)
    help = "X-Codec2 as released, or a small one of the same kind (released)"
    part.add_argument("--model-size", choices=("released", "nano"), default="released", help=help)
    part.add_argument("--seconds", type=float, default=10.0, help="of each wave (10)")
    part.add_argument("--batch", type=int, default=1, help="waves at once (1)")
    part.add_argument("--runs", type=int, default=5, help="the median of so many (5)")
    part.add_argument("--json", action="store_true", help="print the measurement as JSON")
    _seed(part)
    text = "The training step against transformers' Llama with PyTorch: same weights, same rows."
    part = _command(parts, "train", _run_bench_train, text)
    help = "8 x 512 tokens on a CPU, or Llasa-1B with 4 x 2,048 in bfloat16 on a GPU (nano)"
    part.add_argument("--model-size", choices=("nano", "1b"), default="nano", help=help)
    part.add_argument("--runs", type=int, default=5, help="the median of so many (5)")
    part.add_argument("--json", action="store_true", help="print the measurement as JSON")
    _seed(part)
    text = "The input pipeline alone: tokens a second, and whether its memory grows."
    part = _command(parts, "data", _run_bench_data, text)
    help = "folder of token rows (default: rows of random ids are made)"
    part.add_argument("--tokens", type=Path, default=None, help=help)
    part.add_argument("--row", type=int, default=2048, help="positions of a made row (2048)")
    part.add_argument("--batch", type=int, default=16, help="rows of a batch (16)")
    part.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    part.add_argument("--json", action="store_true", help="print the measurement as JSON")
    _seed(part)


def _run_bench_data(options) -> None:
    from llasa_jax.evaluation.bench_data import bench_data, lines

    found = bench_data(options.tokens, options.row, options.batch, options.seconds, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_bench_train(options) -> None:
    from llasa_jax.evaluation.bench_train import bench_train, lines

    found = bench_train(options.model_size, options.runs, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_bench_codec(options) -> None:
    from llasa_jax.evaluation.bench_codec import bench_codec, lines

    size, seconds, batch = options.model_size, options.seconds, options.batch
    found = bench_codec(size, seconds, batch, options.runs, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))
