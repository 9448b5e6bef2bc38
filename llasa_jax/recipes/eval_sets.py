"""What `llasa eval` takes for a list beside lists: held-out speech of corpora."""

from pathlib import Path

from llasa_jax.audio.io import write_audio
from llasa_jax.console import log
from llasa_jax.data.debian import default_cache
from llasa_jax.data.store import WaveStore
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.evaluation.lists import EvalSet, read_set
from llasa_jax.evaluation.page import write_files
from llasa_jax.metrics.seed_tts import Language
from llasa_jax.recipes.voices import BEST_SECONDS

FLITE = "flite-en"  # the list of the shipped voice's held-out sentences
PROMPTS_FROM = 600  # of the held-out sentences, those from here on are the voices' prompts
SECONDS = (1.0, 10.0)  # of a store's recordings


def the_set(what: str, language: Language | None, utterances: int | None) -> EvalSet:
    """A list, what of it is refused is said: as `lists.read_set` reads it; or "flite-en", sentences
    held out of the shipped voice's corpus; or the held-out recordings of a prepared corpus.

    Raises:
        UserError: as `lists.read_set`, or the corpus has no held-out speech of use.
    """
    if what == FLITE:
        which = flite_set(utterances or 200)
    elif (Path(what) / "store.json").is_file():
        which = store_set(Path(what), language)
    else:
        which = read_set(what, language)
    which = which.first(utterances)
    for one in which.refused:
        log(f"{what}, line {one.line}: refused: {one.reason}")
    return which


def flite_set(count: int) -> EvalSet:
    """Sentences that the shipped voice was never trained on, with recordings by flite.

    Each is asked of one of the corpus's identities in turn, whose prompt is another held-out
    sentence; flite says prompts and sentences (synthetic speech). Kept in the cache as `meta.lst`.
    """
    corpus = FliteEnglish(default_cache())
    texts = corpus.held_out(PROMPTS_FROM + 200)
    if count > PROMPTS_FROM:
        raise UserError(f"{FLITE}: --utterances {count}: has {PROMPTS_FROM}")
    prompts = [text for text in texts[PROMPTS_FROM:] if 35 <= len(text) <= 50]
    folder, names = default_cache() / "eval" / FLITE, [one.name for one in corpus.identities]

    def said(text: str, name: str, file: str) -> str:
        path = folder / f"{file}.wav"
        if not path.is_file():
            write_audio(path, *corpus.speak(text, name))
        return path.name

    lines = []
    for i, text in enumerate(texts[:count]):
        name, own = names[i % len(names)], prompts[i % len(names)]
        prompt = said(own, name, f"prompt-{name}")
        truth = said(text, name, f"{i:04d}-{name}")
        lines.append("|".join([f"flite-{i:04d}", f"{own}.", prompt, f"{text}.", truth]))
    write_files(folder, {"meta.lst": "\n".join([*lines, ""]).encode()})
    return EvalSet(FLITE, "en", read_set(str(folder / "meta.lst"), "en").items, [])


def store_set(folder: Path, language: Language | None = None) -> EvalSet:
    """The held-out recordings of a store that have a text and last 1 to 10 s: the test split, then
    the validation split.

    Each is asked of its own speaker, whose prompt is the held-out recording nearest to 2.5 s, of
    the validation split if there is one; that one is not in the list. Kept in the cache as
    `meta.lst`.

    Raises:
        UserError: there is none.
    """
    store = WaveStore.open(folder)
    seconds = {
        i: store.samples(i) / store.rate
        for split in ("test", "valid")
        for i in store.select(split=split, with_text=True)
    }
    held = [i for i, length in seconds.items() if SECONDS[0] <= length <= SECONDS[1]]
    prompts: dict[str, int] = {}
    for i in sorted(
        held, key=lambda i: (store.utterances[i].split == "test", abs(seconds[i] - BEST_SECONDS), i)
    ):
        prompts.setdefault(store.utterances[i].speaker, i)
    spoken = [i for i in held if i not in prompts.values()]
    if not spoken:
        raise UserError(f"{folder}: no speaker has two held-out recordings of 1 to 10 s with texts")
    name = folder.resolve().name
    place = default_cache() / "eval" / f"{name}-{store.info['fingerprint'][:16]}"

    def kept(index: int) -> str:
        path = place / f"{index:06d}.wav"
        if not path.is_file():
            write_audio(path, store[index][1], store.rate)
        return path.name

    def text(index: int) -> str:
        return " ".join(store.utterances[index].text.replace("|", " ").split())

    lines = []
    for i in spoken:
        prompt = prompts[store.utterances[i].speaker]
        lines.append("|".join([f"{i:06d}", text(prompt), kept(prompt), text(i), kept(i)]))
    write_files(place, {"meta.lst": "\n".join([*lines, ""]).encode()})
    language = language or ("zh" if store.utterances[spoken[0]].language == "zh" else "en")
    found = read_set(str(place / "meta.lst"), language)
    return EvalSet(name, language, found.items, found.refused)
