"""`llasa voices train`: from a folder of one's own recordings to a model that speaks like them.

The shipped model's codec, recogniser and speaker encoder stay as they are; its language model is
trained on with the recordings. Interrupted, the same command goes on where it stopped.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from llasa_jax.config import DataRun, DecoderRun, load_config
from llasa_jax.console import log
from llasa_jax.data.corpora import named_corpus
from llasa_jax.data.store import WaveStore, level
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.recipes import stages
from llasa_jax.recipes.prepare import prepare
from llasa_jax.recipes.voices import LONGEST, NAME, SHORTEST, NamedVoice, VoiceMaker, save_voice

CONFIG = "finetune_nano"
BEST_SECONDS = 2.5  # of the recording that becomes the voice's prompt
TRIED = 16  # recordings, until the recogniser understands one


def train_voice(
    recordings: Path,
    *,
    name: str,
    consent: bool,
    out: Path,
    model: Path | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Trains a voice and returns the model folder, which speaks with it as its usual one.

    Args:
        recordings: .wav or .flac files beside .txt files of the same name, of one speaker.
        consent: the speaker agrees to be spoken with.
        out: the run's folder.
        model: what the training begins with; None: the shipped voice.
        settings: of `configs/finetune_nano.py`, as PATH=VALUE.

    Raises:
        UserError: there is no consent, a name is none, or the recordings cannot be used.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: give a name of letters, digits, - and _")
    if not consent:
        raise UserError(f"{recordings}: a voice is a person's own; ask, then say so with --consent")
    begin = stages.model_folder(model or stages.shipped_model())
    run = load_config(CONFIG, DecoderRun, settings)
    store = WaveStore.build([named_corpus(str(recordings))], out / "corpus")
    _split_or_refuse(store, recordings)
    mine = _copied(begin, out / "model")
    voice = _voice(mine, store, name)
    data = DataRun(
        corpora=(str(out / "corpus"),), row=run.row, kinds=("generation", "understanding")
    )
    prepare(data, out / "tokens", mine)
    stages.train_language(run, out / "tokens", out / "lm", mine, seed=seed, init=begin)
    save_voice(mine / "voices", voice, part_hash(mine, "codec"))
    log(f'speak: llasa say "any text" --model {out}')
    return mine


def _split_or_refuse(store: WaveStore, recordings: Path) -> None:
    for split in ("train", "valid"):
        if not store.select(split=split, with_text=True):
            raise UserError(
                f"{recordings}: no {split} recording with a text; give more recordings, each with "
                "its words in a .txt file beside it"
            )


def _copied(begin: Path, mine: Path) -> Path:
    """A model folder with all but voices and language model of another; those come last."""
    mine.mkdir(parents=True, exist_ok=True)
    for path in begin.iterdir():
        if path.is_file() and path.stem not in ("lm", "README"):
            shutil.copyfile(path, mine / path.name)
    return mine


def _voice(model: Path, store: WaveStore, name: str) -> NamedVoice:
    """A recording that was not trained on, which the recogniser understands, as the prompt.

    Raises:
        UserError: all of them are shorter or longer than a prompt.
    """
    maker = VoiceMaker(model)
    held = store.select(split="valid", with_text=True) + store.select(split="train", with_text=True)
    lengths = {i: store.samples(i) / store.rate for i in held}
    fitting = [i for i in held if SHORTEST <= lengths[i] <= LONGEST][:TRIED]
    if not fitting:
        raise UserError(f"{store.folder}: no recording of {SHORTEST:g} to {LONGEST:g} s")
    fitting.sort(key=lambda i: abs(lengths[i] - BEST_SECONDS))
    for i in fitting:
        one, wave = store[i]
        if maker.fits(wave, one.text):
            break
    else:
        one, wave = store[fitting[0]]
        log(
            f"{name}: the recogniser understands none of {len(fitting)} recordings; takes will be "
            "chosen badly"
        )
    return maker.from_wave(level(wave), one.text, name, "given, as the user says")
