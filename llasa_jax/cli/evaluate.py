"""Evaluating: `llasa eval`."""

import argparse
from pathlib import Path

from llasa_jax.cli.common import as_json, command, model, seed, settings, show, utterances

PAGE = "folder for a page to read and listen to, its figures and eval.json"


def add_eval(commands) -> None:
    evaluate = command(commands, "eval", None, "Measure what was trained, and its peers.")
    parts = evaluate.add_subparsers(dest="part", required=True, metavar="PART")
    for add in (
        _add_tts,
        _add_compare,
        _add_listen,
        _add_ratings,
        _add_asr,
        _add_codec,
        _add_nano,
        _add_longtext,
        _add_learning,
        _add_paper,
    ):
        add(parts)


def _sentences(part: argparse.ArgumentParser) -> None:
    help = "a file with one sentence a line (default: held-out ones of its corpus)"
    part.add_argument("--sentences", type=Path, default=None, metavar="FILE", help=help)


def _scorers(part: argparse.ArgumentParser) -> None:
    help = "a judge: whisper=DIR, hubert=DIR, recogniser=DIR, wavlm=FILE, emotion2vec=FILE, "
    help += "paraformer, pocketsphinx, content, ge2e, speaker, dnsmos, utmos; may be repeated"
    part.add_argument("--scorer", action="append", default=[], metavar="NAME[=PATH]", help=help)


def _language(part: argparse.ArgumentParser) -> None:
    help = "of the list (default: by its characters)"
    part.add_argument("--language", choices=("en", "zh"), default=None, help=help)


def _add_tts(parts) -> None:
    text = "Speak a list with models and strategies, and judge it, in the paper's table layout."
    part = command(parts, "tts", _run_tts, text)
    help = "a list as seed-tts-eval's, a folder of LibriSpeech or ESD, a prepared corpus (its "
    help += "held-out speech), understanding-en, understanding-zh, or flite-en: held-out sentences "
    help += "of the shipped voice"
    part.add_argument("set", help=help)
    help = "model folder; may be repeated (default: the voice that the package carries)"
    part.add_argument("--model", action="append", type=Path, default=[], help=help)
    _scorers(part)
    help = "some of direct, best-of, partial, partial+best-of, truth, codec (direct)"
    part.add_argument("--strategy", type=_names, default=("direct",), metavar="S,S", help=help)
    part.add_argument("--candidates", type=int, default=16, help="N (16)")
    part.add_argument("--beams", type=int, default=16, help="B of the partial strategies (16)")
    part.add_argument("--step-codes", type=int, default=25, help="M: between rewards (25)")
    help = "that rewards decide (2)"
    part.add_argument("--prefix-seconds", type=float, default=2.0, help=help)
    help = "takes of each beam that are drawn to their end (default: N)"
    part.add_argument("--completions", type=int, default=None, help=help)
    help = "the verifier that leads beams, and chooses in `partial` (speaker)"
    part.add_argument("--lead", default="speaker", metavar="NAME", help=help)
    help = (
        "what chooses the best of N: a verifier, or a judge's word error as whisper-wer (content)"
    )
    part.add_argument("--select", default="content", metavar="NAME", help=help)
    help = "speak texts of more characters in parts, as the paper's hard set at 100"
    part.add_argument("--chunk", type=int, default=None, metavar="CHARACTERS", help=help)
    _language(part)
    help = "at most so many (default: all)"
    part.add_argument("--utterances", type=int, default=None, help=help)
    help = "folder for waves, rows, summary.json and the page (runs/eval-tts)"
    part.add_argument("--out", type=Path, default=Path("runs/eval-tts"), help=help)
    as_json(part)
    seed(part)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _run_tts(options) -> int:
    from llasa_jax.evaluation.tts_report import difference_table, paper_table, score_table
    from llasa_jax.recipes.eval_tts import eval_tts
    from llasa_jax.recipes.stages import shipped_model
    from llasa_jax.recipes.talking import TalkSettings

    how = TalkSettings(
        strategies=options.strategy,
        candidates=options.candidates,
        beams=options.beams,
        step_codes=options.step_codes,
        prefix_seconds=options.prefix_seconds,
        completions=options.completions,
        lead=options.lead,
        select=options.select,
        chunk=options.chunk,
        seed=options.seed,
    )
    found = eval_tts(
        options.set,
        options.model or [shipped_model()],
        how,
        scorers=options.scorer,
        language=options.language,
        utterances=options.utterances,
        out=options.out,
    )
    if "set" in found:  # the first of several processes has them
        show(found, options.json, score_table, difference_table, paper_table)
    return 1 if found["refused"] else 0


def _add_compare(parts) -> None:
    text = "Two runs of `llasa eval tts`, paired by utterance: differences, intervals, p-values."
    part = command(parts, "compare", _run_compare, text)
    help = "folder of a run: OUT/MODEL/STRATEGY"
    part.add_argument("one", type=Path, metavar="A", help=help)
    part.add_argument("other", type=Path, metavar="B", help=help)
    as_json(part)


def _run_compare(options) -> None:
    from llasa_jax.evaluation.tts_report import difference_table
    from llasa_jax.recipes.eval_runs import eval_compare

    show(eval_compare(options.one, options.other), options.json, difference_table)


def _add_listen(parts) -> None:
    text = "A page on which people score runs of `llasa eval tts`, blind, from 1 to 3."
    part = command(parts, "listen", _run_listen, text)
    help = "folders of runs: OUT/MODEL/STRATEGY"
    part.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=help)
    help = "folder for listen.html, which listeners get, and listen.json, which they do not"
    part.add_argument("--out", type=Path, default=Path("runs/listen"), help=help)
    seed(part)


def _run_listen(options) -> None:
    from llasa_jax.recipes.eval_runs import eval_listen

    print(eval_listen(options.runs, options.out, options.seed))


def _add_ratings(parts) -> None:
    text = "What the files of scores that listeners saved come to."
    part = command(parts, "ratings", _run_ratings, text)
    part.add_argument("key", type=Path, metavar="DIR", help="folder that `eval listen` wrote")
    part.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one of each listener")
    as_json(part)


def _run_ratings(options) -> int:
    from llasa_jax.evaluation.listening import rating_table, ratings

    found = ratings(options.key, options.files)
    show(found, options.json, rating_table)
    return 1 if found["refused"] else 0


def _add_asr(parts) -> None:
    text = "Have a list's recordings heard by the model and by other recognisers: word errors."
    part = command(parts, "asr", _run_asr, text)
    help = "a list with recordings, a folder of LibriSpeech, or flite-en"
    part.add_argument("set", help=help)
    model(part)
    _scorers(part)
    _language(part)
    help = "at most so many (default: all)"
    part.add_argument("--utterances", type=int, default=None, help=help)
    help = "folder for rows and asr.json (runs/eval-asr)"
    part.add_argument("--out", type=Path, default=Path("runs/eval-asr"), help=help)
    as_json(part)


def _run_asr(options) -> int:
    from llasa_jax.recipes.eval_asr import asr_table, eval_asr, paper_asr_table
    from llasa_jax.recipes.stages import shipped_model

    found = eval_asr(
        options.set,
        options.model or shipped_model(),
        scorers=options.scorer,
        language=options.language,
        utterances=options.utterances,
        out=options.out,
    )
    if "set" in found:  # the first of several processes has them
        show(found, options.json, asr_table, paper_asr_table)
    return 1 if found["refused"] else 0


def _add_codec(parts) -> None:
    text = "Score a codec, Opus and Codec2 on the same held-out recordings."
    part = command(parts, "codec", _run_codec, text)
    help = "recordings or folders of them, or one list with texts, where there is no --store"
    part.add_argument("audio", type=Path, nargs="*", metavar="AUDIO", help=help)
    part.add_argument("--store", type=Path, default=None, help="prepared corpus")
    _scorers(part)
    model(part)
    utterances(part, 40)
    part.add_argument("--out", type=Path, default=None, help=PAGE)
    as_json(part)
    seed(part)


def _run_codec(options) -> None:
    from llasa_jax.evaluation.codec_report import paper_table, score_table
    from llasa_jax.recipes.eval_codec import eval_codec
    from llasa_jax.recipes.stages import shipped_model

    found = eval_codec(
        options.model or shipped_model(),
        store=options.store,
        audio=options.audio,
        scorers=options.scorer,
        utterances=options.utterances,
        out=options.out,
        seed=options.seed,
    )
    show(found, options.json, score_table, paper_table)


def _add_nano(parts) -> None:
    text = "Word error, failures, voices and speed of the shipped voice, by judges of their own."
    part = command(parts, "nano", _run_nano, text)
    _sentences(part)
    model(part)
    utterances(part, 200)
    part.add_argument("--out", type=Path, default=None, help=PAGE)
    as_json(part)
    seed(part)


def _run_nano(options) -> None:
    from llasa_jax.evaluation.nano_report import score_table
    from llasa_jax.recipes.eval_nano import eval_nano
    from llasa_jax.recipes.stages import shipped_model

    found = eval_nano(
        options.model or shipped_model(),
        sentences=options.sentences,
        utterances=options.utterances,
        out=options.out,
        seed=options.seed,
    )
    show(found, options.json, score_table)


def _add_longtext(parts) -> None:
    text = "Whether long texts come out whole, and whether it is noticed where they do not."
    part = command(parts, "longtext", _run_longtext, text)
    model(part)
    part.add_argument("--texts", type=int, default=10, help="how many (10)")
    help = "of the shortest and of the longest text (500,2000)"
    part.add_argument("--words", type=_span, default=(500, 2000), metavar="N,N", help=help)
    part.add_argument("--candidates", type=int, default=16, help="takes to choose from (16)")
    _scorers(part)
    help = "folder for texts, sounds and records"
    part.add_argument("--out", type=Path, default=None, help=help)
    as_json(part)
    seed(part)


def _span(text: str) -> tuple[int, int]:
    try:
        first, last = map(int, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers, as 500,2000") from error
    return first, last


def _run_longtext(options) -> None:
    from llasa_jax.evaluation.page import json_bytes
    from llasa_jax.evaluation.scorers import parse_scorers
    from llasa_jax.recipes.eval_longtext import eval_longtext, lines
    from llasa_jax.recipes.stages import shipped_model

    shortest, longest = options.words
    found = eval_longtext(
        options.model or shipped_model(),
        texts=options.texts,
        shortest=shortest,
        longest=longest,
        candidates=options.candidates,
        scorers=parse_scorers(options.scorer),
        out=options.out,
        seed=options.seed,
    )
    print(json_bytes(found).decode().strip() if options.json else lines(found))


def _add_learning(parts) -> None:
    text = "What a language model's run could say at each checkpoint that it kept."
    part = command(parts, "learning", _run_learning, text)
    settings(part)
    part.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the run")
    part.add_argument("--tokens", required=True, help="token rows that it was trained on")
    part.add_argument("--model", type=Path, required=True, help="model folder that it was for")
    utterances(part, 50)
    help = "folder for learning.json, learning.csv and the figure"
    part.add_argument("--out", type=Path, default=None, help=help)
    as_json(part)
    seed(part)


def _run_learning(options) -> None:
    from llasa_jax.config import DecoderRun, load_config
    from llasa_jax.evaluation.learning_report import learning_table
    from llasa_jax.recipes.learning import learning

    run = load_config(options.config, DecoderRun, options.set)
    where = options.folder, options.tokens, options.model
    count = options.utterances
    found = learning(run, *where, utterances=count, out=options.out, seed=options.seed)
    show(found, options.json, learning_table)


def _add_paper(parts) -> None:
    text = "What `launch/paper.sh` measured, held against the paper's table 2."
    part = command(parts, "paper", _run_paper, text)
    part.add_argument("folder", type=Path, help="the script's")
    as_json(part)


def _run_paper(options) -> int:
    from llasa_jax.recipes.paper import hours_table, paper, paper_table

    found = paper(options.folder)
    show(found, options.json, paper_table, hours_table)
    return 1 if found["outside"] or found["missing"] or found["partial"] else 0
