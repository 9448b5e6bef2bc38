"""Models: `llasa train`, `convert`, `plan`."""

import json
from pathlib import Path

from llasa_jax.cli.common import command, seed, settings
from llasa_jax.errors import UserError


def add_train(commands) -> None:
    text = "Train a language model on token rows or on its own takes; or a verifier on a corpus."
    parser = command(commands, "train", _run_train, text)
    settings(parser)
    help = "of a language model: folder or gs:// address of token rows that `data prepare` wrote"
    parser.add_argument("--tokens", default=None, help=help)
    help = "of a recogniser or speaker encoder: prepared corpus"
    parser.add_argument("--store", type=Path, default=None, help=help)
    help = "folder with the codec; a verifier may make a new one (default: OUT/model)"
    parser.add_argument("--model", type=Path, default=None, help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    help = "model to begin with: a model folder, or a Llama in Hugging Face's layout, also of text"
    parser.add_argument("--init", type=Path, default=None, metavar="FOLDER", help=help)
    help = "of a model's own takes: one a line (default: those of the shipped voice's corpus)"
    parser.add_argument("--sentences", type=Path, default=None, metavar="FILE", help=help)
    seed(parser)


def _run_train(options) -> None:
    from llasa_jax.config import DecoderRun, GrpoRun, RecogniserRun, SpeakerRun, load_config
    from llasa_jax.recipes.grpo import train_grpo
    from llasa_jax.recipes.stages import model_folder, train_language, train_verifier
    from llasa_jax.recipes.start import start

    kinds = DecoderRun | RecogniserRun | SpeakerRun | GrpoRun
    run = load_config(options.config, kinds, options.set)
    wanted = {DecoderRun: "tokens", GrpoRun: "sentences"}.get(type(run), "store")
    names = ("tokens", "store", "sentences")
    given = [name for name in names if getattr(options, name) is not None]
    if given != [wanted] and (given or wanted != "sentences"):  # which there are without a file
        others = " or ".join(f"--{name}" for name in names if name != wanted)
        raise UserError(f"train {options.config}: is trained on --{wanted}, not on {others}")
    start(run.train)
    model = options.model or options.out / "model"
    if isinstance(run, GrpoRun):
        where = (options.out, model_folder(model))
        files = {"init": options.init or where[1], "sentences": options.sentences}
        train_grpo(run, *where, seed=options.seed, **files)
    elif isinstance(run, DecoderRun):
        where = (options.tokens, options.out, model_folder(model))
        train_language(run, *where, seed=options.seed, init=options.init)
    else:
        where = (options.store, options.out, model)
        train_verifier(run, *where, seed=options.seed, init=options.init)


def add_convert(commands) -> None:
    text = "Read a published codec or language model, or write one in a published layout."
    parser = command(commands, "convert", _run_convert, text)
    help = "a model folder, a folder in a published layout, or a checkpoint file"
    parser.add_argument("source", type=Path, help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    help = "of the result: ours, X-Codec2's own, transformers' Xcodec2Model or NeuCodecModel, or a "
    help += "LlamaForCausalLM (default: llasa)"
    layouts = ("llasa", "xcodec2", "transformers", "neucodec", "llama")
    parser.add_argument("--layout", choices=layouts, default="llasa", help=help)
    help = "of the weights of --layout llama (float32); float16 copies a model folder in half"
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, default=None, help=help)
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


def add_plan(commands) -> None:
    text = "Compile a training step for TPUs that are not there: memory, collectives, time."
    parser = command(commands, "plan", _run_plan, text)
    settings(parser)
    parser.add_argument("--topology", required=True, help="chip and grid, as v5p:4x4x4")
    parser.add_argument("--slices", type=int, default=1, help="so many of that grid (1)")
    help = "what to compile (default: train, the language model; encode: the codec's encoder; "
    help += "search: the decoding loop of the paper's beam)"
    programs = ("train", "codec", "encode", "search")
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
