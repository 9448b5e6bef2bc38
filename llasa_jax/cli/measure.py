"""Measuring: `llasa curve`, `bench`."""

import argparse
import json
from pathlib import Path

from llasa_jax.cli.common import as_json, command, model, numbers, seed, show, utterances


def add_curve(commands) -> None:
    text = "What more candidates are worth: N against what an independent judge hears."
    part = command(commands, "curve", _run_curve, text)
    model(part)
    help = "a file with one sentence a line (default: held-out ones of the voice's corpus)"
    part.add_argument("--sentences", type=Path, default=None, metavar="FILE", help=help)
    utterances(part, 200)
    help = "the N of the points; of a beam the samples of each (1,4,16)"
    part.add_argument("--candidates", type=_counts, default=(1, 4, 16), metavar="N,N", help=help)
    names = ("best-of", "sequential", "beam", "partial")
    part.add_argument("--strategy", choices=names, default="best-of", help="(best-of)")
    part.add_argument("--beams", type=int, default=None, help="of a beam (as many as the samples)")
    part.add_argument("--step-codes", type=int, default=25, help="between two of its rewards (25)")
    help = "that the rewards decide where the strategy is partial (2)"
    part.add_argument("--prefix-seconds", type=float, default=2.0, help=help)
    weights = {"type": numbers, "metavar": "NAME=X,NAME=X"}
    help = "weights of the verifiers that choose (content=1)"
    part.add_argument("--select", default={"content": 1.0}, help=help, **weights)
    help = "weights of those that lead a beam (speaker=1)"
    part.add_argument("--lead", default={"speaker": 1.0}, help=help, **weights)
    help = "scores at which sequential stops (default: what half of the first takes reach)"
    part.add_argument("--accept", default={}, help=help, **weights)
    help = "counts words: pocketsphinx, or content, the model's recogniser (pocketsphinx)"
    part.add_argument("--judge", default="pocketsphinx", help=help)
    help = "folder for records, table and figure; the same command goes on there (runs/curve)"
    part.add_argument("--out", type=Path, default=Path("runs/curve"), help=help)
    as_json(part)
    seed(part)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, as 1,4,16") from error


def _run_curve(options) -> None:
    from llasa_jax.evaluation.curve_report import curve_table
    from llasa_jax.recipes.curve import CurveSettings, curve
    from llasa_jax.recipes.stages import shipped_model

    settings = CurveSettings(
        options.strategy,
        options.candidates,
        options.beams,
        options.step_codes,
        options.prefix_seconds,
        options.select,
        options.lead,
        options.accept,
    )
    found = curve(
        options.model or shipped_model(),
        settings,
        sentences=options.sentences,
        utterances=options.utterances,
        judge=options.judge,
        out=options.out,
        seed=options.seed,
    )
    show(found, options.json, curve_table)


def add_bench(commands) -> None:
    bench = command(commands, "bench", None, "Time parts of the system against their peers.")
    parts = bench.add_subparsers(dest="part", required=True, metavar="PART")
    text = "The codec against transformers' Xcodec2Model: same weights, same waves, float32."
    part = command(parts, "codec", _run_bench_codec, text)
    help = "X-Codec2 as released, or a small one of the same kind (released)"
    part.add_argument("--model-size", choices=("released", "nano"), default="released", help=help)
    part.add_argument("--seconds", type=float, default=10.0, help="of each wave (10)")
    part.add_argument("--batch", type=int, default=1, help="waves at once (1)")
    part.add_argument("--runs", type=int, default=5, help="the median of so many (5)")
    as_json(part)
    seed(part)
    text = "The training step against transformers' Llama with PyTorch: same weights, same rows."
    part = command(parts, "train", _run_bench_train, text)
    help = "8 x 512 tokens on a CPU, or Llasa-1B with 4 x 2,048 in bfloat16 on a GPU (nano)"
    part.add_argument("--model-size", choices=("nano", "1b"), default="nano", help=help)
    part.add_argument("--runs", type=int, default=5, help="the median of so many (5)")
    as_json(part)
    seed(part)
    text = "Sixteen takes of one prompt against transformers' generate: same weights, same lengths."
    part = command(parts, "search", _run_bench_search, text)
    help = "the shipped voice's decoder, or Llasa-1B in bfloat16 on a GPU (nano)"
    part.add_argument("--model-size", choices=("nano", "1b"), default="nano", help=help)
    part.add_argument("--runs", type=int, default=5, help="the median of so many (5)")
    as_json(part)
    seed(part)
    text = "The input pipeline alone: tokens a second, and whether its memory grows."
    part = command(parts, "data", _run_bench_data, text)
    help = "folder of token rows (default: rows of random ids are made)"
    part.add_argument("--tokens", type=Path, default=None, help=help)
    part.add_argument("--row", type=int, default=2048, help="positions of a made row (2048)")
    part.add_argument("--batch", type=int, default=16, help="rows of a batch (16)")
    part.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    as_json(part)
    seed(part)


def _run_bench_data(options) -> None:
    from llasa_jax.evaluation.bench_data import bench_data, lines

    found = bench_data(options.tokens, options.row, options.batch, options.seconds, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_bench_train(options) -> None:
    from llasa_jax.evaluation.bench_train import bench_train, lines

    found = bench_train(options.model_size, options.runs, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_bench_search(options) -> None:
    from llasa_jax.evaluation.bench_search import bench_search, lines

    found = bench_search(options.model_size, options.runs, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))


def _run_bench_codec(options) -> None:
    from llasa_jax.evaluation.bench_codec import bench_codec, lines

    size, seconds, batch = options.model_size, options.seconds, options.batch
    found = bench_codec(size, seconds, batch, options.runs, options.seed)
    print(json.dumps(found, sort_keys=True) if options.json else lines(found))
