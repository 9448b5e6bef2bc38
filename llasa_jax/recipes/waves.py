"""The two ends of `llasa data prepare`: waves to train a codec on, or token rows made with one."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llasa_jax.config import DataRun, load_config, override
from llasa_jax.config.loading import config_folder
from llasa_jax.data.corpora import NAMES, named_corpus
from llasa_jax.data.store import WaveStore
from llasa_jax.recipes.prepare import prepare
from llasa_jax.recipes.stages import model_folder


def prepare_waves(
    names: Sequence[str], out: Path, *, minutes: float | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Reads corpora into one store of waves and returns what it holds.

    Args:
        minutes, seed: of synthetic speech (60, 0).
    """
    settings = {"minutes": 60.0 if minutes is None else minutes, "seed": seed or 0}
    corpora = [named_corpus(name, **settings) for name in names]
    return WaveStore.build(corpora, out).info


def prepare_rows(
    what: Sequence[str],
    out: str | Path,
    model: Path,
    *,
    assignments: Sequence[str] = (),
    minutes: float | None = None,
    seed: int | None = None,
    tokenizer: Path | None = None,
    workers: int = 1,
    beam: str | None = None,
) -> dict[str, Any]:
    """Token rows of corpora, or of what a configuration names; returns the manifest.

    Args:
        what: names or folders of corpora; or one file, or name in `configs/`, of a `DataRun`.
        assignments: `--set` overrides of the run's settings.
        workers: processes on this machine.
        beam: options of Apache Beam, to run as its pipeline instead.
    """
    run = data_run(what, assignments)
    changed = {"minutes": minutes, "seed": seed}
    run = replace(run, **{name: value for name, value in changed.items() if value is not None})
    if beam is not None:
        from llasa_jax.recipes.prepare_beam import prepare_with_beam

        options = shlex.split(beam)
        return prepare_with_beam(
            run, out, model_folder(model), tokenizer=tokenizer, options=options
        )
    return prepare(run, out, model_folder(model), tokenizer=tokenizer, workers=workers)


def data_run(what: Sequence[str], assignments: Sequence[str]) -> DataRun:
    """The configuration that is named, or the default one for these corpora."""
    name = what[0]
    corpus = name in NAMES or Path(name).is_dir()
    configured = Path(name).suffix == ".py" or (config_folder() / f"{name}.py").is_file()
    if len(what) == 1 and configured and not corpus:
        return load_config(name, DataRun, list(assignments))
    return override(DataRun(corpora=tuple(what)), list(assignments))
