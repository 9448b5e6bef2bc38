"""Corpora and token rows: `llasa data`."""

import json
from pathlib import Path

from llasa_jax.cli.common import MODEL, command, seed, settings
from llasa_jax.errors import UserError


def add_data(commands) -> None:
    data = command(commands, "data", None, "Prepare corpora for training, and look into them.")
    parts = data.add_subparsers(dest="part", required=True, metavar="PART")
    text = "Corpora to waves for training a codec; with --model, on to packed token rows."
    part = command(parts, "prepare", _run_prepare, text)
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
    help += "(default: the model's, else bytes); or english, bytes of texts in lower case"
    part.add_argument("--tokenizer", type=Path, default=None, help=help)
    help = "processes on this machine (1); others, here or elsewhere, may run the same command"
    part.add_argument("--workers", type=int, default=1, help=help)
    help = (
        'run it as an Apache Beam pipeline, with Beam\'s own options ("--runner=FlinkRunner ...")'
    )
    part.add_argument("--beam", default=None, metavar="OPTIONS", help=help)

    text = "Speak sentences many times and keep the takes that verifiers prefer, as token rows."
    part = command(parts, "distil", _run_distil, text)
    settings(part)
    part.add_argument("--model", type=Path, default=None, help=MODEL)
    help = "a file with one sentence a line (default: training ones of the shipped voice's corpus)"
    part.add_argument("--sentences", type=Path, default=None, metavar="FILE", help=help)
    help = "folder for the rows; several processes may run the same command"
    part.add_argument("--out", type=Path, required=True, help=help)
    seed(part)

    text = "Find what is wrong with token rows, and how to mend it; exit status 1 if anything is."
    part = command(parts, "check", _run_check, text)
    part.add_argument("folder", type=Path, help="of `data prepare`, or of the released layout")
    help = "folder with the tokenizer of the ids (default: the folder's own)"
    part.add_argument("--model", type=Path, default=None, help=help)
    part.add_argument("--json", action="store_true", help="print what was found as JSON")
    text = "Hours, speakers, lengths, codebook use and used positions of token rows, with plots."
    part = command(parts, "stats", _run_stats, text)
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


def _run_distil(options) -> None:
    from llasa_jax.config import DistilRun, load_config
    from llasa_jax.recipes.distil import distil
    from llasa_jax.recipes.stages import shipped_model

    run = load_config(options.config, DistilRun, options.set)
    where = options.model or shipped_model(), options.out
    found = distil(run, *where, sentences=options.sentences, seed=options.seed)
    print(json.dumps(found, indent=1, sort_keys=True))


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
