"""Speaking: `llasa quickstart`, `say`, `voices`."""

import argparse
import json
from pathlib import Path

from llasa_jax.cli.common import MODEL, command, numbers, seed
from llasa_jax.errors import UserError


def add_quickstart(commands) -> None:
    text = "Train a small codec and language model on real and synthetic speech, and report."
    parser = command(commands, "quickstart", _run_quickstart, text)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all of it (15)")
    help = "a built-in corpus or a folder of recordings with texts (default: English)"
    parser.add_argument("--corpus", default=None, help=help)
    seed(parser)


def _run_quickstart(options) -> None:
    from llasa_jax.recipes.quickstart import quickstart

    quickstart(options.out, options.minutes, options.corpus, options.seed)


def add_say(commands) -> None:
    parser = command(commands, "say", _run_say, "Speak a text into a file.")
    parser.add_argument("text", nargs="?", help="what to say; - reads standard input")
    help = "read the text from a file; - is standard input"
    parser.add_argument("--file", default=None, metavar="FILE", help=help)
    parser.add_argument("--model", type=Path, default=None, help=MODEL)
    help = "a .wav, .flac, .mp3, .opus or .aac file; - is standard output, while it is spoken"
    parser.add_argument("-o", "--out", default=None, help=help + " (default: out.wav)")
    parser.add_argument("--format", default=None, help="of the sound (default: by the suffix)")
    parser.add_argument("--play", action="store_true", help="through the loudspeaker, at once")
    help = "one of `llasa voices list`, or a recording of 1 to 15 s (default: the model's first)"
    parser.add_argument("--voice", default=None, metavar="NAME|FILE", help=help)
    prompt(parser)
    names = ("best-of", "sequential", "beam", "partial")
    parser.add_argument("--strategy", choices=names, default="best-of", help="(best-of)")
    parser.add_argument("--candidates", type=int, default=4, help="takes to choose from (4)")
    weights = {"type": numbers, "metavar": "NAME=X,NAME=X"}
    help = "who chooses, of content, speaker and self, and how much it weighs"
    default = {"content": 1.0, "speaker": 1.0}
    parser.add_argument(
        "--verifier", default=default, help=f"{help} (content=1,speaker=1)", **weights
    )
    help = "numbers, dates, money and abbreviations as English words, or as they stand (english)"
    parser.add_argument("--normalise", choices=("english", "none"), default="english", help=help)
    help = "of an installed package, by the name of its entry point"
    parser.add_argument("--watermark", default=None, metavar="NAME", help=help)
    parser.add_argument("--json", action="store_true", help="print the search's record as JSON")
    seed(parser)


def prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-text", default=None, metavar="TEXT", help="what a recording says")
    help = "the speaker of the recording agrees to be spoken with"
    parser.add_argument("--consent", action="store_true", help=help)


def _run_say(options) -> None:
    from llasa_jax.recipes.say import OUT, read_text, say
    from llasa_jax.recipes.stages import shipped_model
    from llasa_jax.recipes.strategy import Search

    if (options.text is None) == (options.file is None):
        raise UserError("say: give a text, or --file FILE, or - for standard input")
    out = options.out or (None if options.play else "out.wav")
    if options.json and out == OUT:
        raise UserError("--json: standard output takes the sound; write a file with -o")
    source = options.file or ("-" if options.text == "-" else None)
    select = options.verifier
    lead = {name: weight for name, weight in select.items() if name != "content"} or select
    record = say(
        options.text if source is None else read_text(source),
        model=options.model or shipped_model(),
        out=out,
        search=Search(options.strategy, options.candidates, select=select, lead=lead),
        voice=options.voice,
        seed=options.seed,
        normalise=options.normalise,
        prompt_text=options.prompt_text,
        consent=options.consent,
        form=options.format,
        play=options.play,
        mark=options.watermark,
    )
    if options.json:
        print(json.dumps(record, sort_keys=True))


def add_voices(commands) -> None:
    voices = command(commands, "voices", None, "The voices of a model.")
    parts = voices.add_subparsers(dest="part", required=True, metavar="PART")
    listed = command(parts, "list", _run_voices_list, "Their names, and what their prompts say.")
    listed.add_argument("--json", action="store_true", help="print them as JSON")
    text = "Add the voice of a recording, or one of each synthetic speaker of a prepared corpus."
    add = command(parts, "add", _run_voices_add, text)
    add.add_argument("what", type=Path, help="a recording of 1 to 15 s, or a corpus's folder")
    add.add_argument("--name", default=None, help="of the recording's voice")
    prompt(add)
    text = "Train a voice of one's own, beginning with the shipped one."
    train = command(parts, "train", _run_voices_train, text)
    help = "folder of one speaker's .wav or .flac files, each beside a .txt file with its words"
    train.add_argument("recordings", type=Path, help=help)
    train.add_argument("--name", required=True, help="of the voice")
    help = "the speaker of the recordings agrees to be spoken with"
    train.add_argument("--consent", action="store_true", help=help)
    train.add_argument("--out", type=Path, required=True, help="folder of the run and its model")
    help = "override a setting of configs/finetune_nano.py, e.g. train.steps=200; may be repeated"
    train.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=help)
    seed(train)
    for part in (listed, add, train):
        part.add_argument("--model", type=Path, default=None, help=MODEL)


def _run_voices_list(options) -> None:
    from llasa_jax.recipes.stages import model_folder, shipped_model
    from llasa_jax.recipes.voices import load_voices

    voices = load_voices(model_folder(options.model or shipped_model()))
    if options.json:
        found = [{"name": v.name, "text": v.text, "consent": v.consent} for v in voices.values()]
        print(json.dumps(found, sort_keys=True))
    else:
        print("\n".join(f"{v.name:16} {v.consent}: {v.text}" for v in voices.values()))


def _run_voices_add(options) -> None:
    from llasa_jax.recipes.voices import add_voices

    what = {"name": options.name, "text": options.prompt_text, "consent": options.consent}
    print("\n".join(add_voices(options.what, **what, model=options.model)))


def _run_voices_train(options) -> None:
    from llasa_jax.recipes.own_voice import train_voice

    model = train_voice(
        options.recordings,
        name=options.name,
        consent=options.consent,
        out=options.out,
        model=options.model,
        settings=options.set,
        seed=options.seed,
    )
    print(model)
