"""`llasa sweep`: trains the runs of a ladder one after the other, each once.

A finished run leaves `row.json` in its folder, written last and whole; the table of all of them is
made anew from these. So runs may end in any order, in several processes that share the folder, and
an interrupted one goes on from its checkpoint.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from llasa_jax.config import DecoderRun, SweepPlan, config_folder
from llasa_jax.console import bar, log
from llasa_jax.data.debian import default_cache
from llasa_jax.data.pipeline import READING, Source, ordered_batches, packed_batches
from llasa_jax.data.shards import TokenShards
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.evaluation.page import json_bytes, write_files
from llasa_jax.interop.bundle import save_part
from llasa_jax.lm.vocabulary import TAGS
from llasa_jax.parallel.distributed import gather
from llasa_jax.parallel.flops import chip_count, parameter_count, utilisation
from llasa_jax.recipes.learning import spoken
from llasa_jax.recipes.stages import check_vocabulary, codec_config, learned_speech, open_tokens
from llasa_jax.recipes.voice import Voice
from llasa_jax.scaling.ladder import Trial, ladder
from llasa_jax.scaling.table import code_version, rows_text
from llasa_jax.training.language import language_objective, row_work, validation_nats
from llasa_jax.training.loop import Fitted, fit
from llasa_jax.training.step import place_batch, training_mesh
from llasa_jax.verifiers.external import Pocketsphinx

LAST = 0.05  # of a run: what its training loss is the mean of


def sweep(
    plan: SweepPlan,
    tokens: str | Path,
    model: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    held_out: bool = False,
) -> list[dict[str, Any]]:
    """Trains the runs of a plan that are not finished, and returns the rows of all that are.

    Args:
        tokens: what `llasa data prepare` wrote.
        model: folder with the codec and tokenizer of these, and what speaks.
        out: folder of the ladder: `runs.csv`, and a folder a run with its curve and its model.
        only: names of the runs to train; none: all.
        held_out: also train those that are forecast.

    Raises:
        UserError: a run of `out` was made by another plan; as `fit` and `open_tokens`.
        Saved: SIGTERM came; the run under way has saved.
    """
    code = code_version()  # now: the checkout may go on while this runs
    trials = chosen(plan, only, held_out)
    rows = finished(plan, out)
    left = [trial for trial in trials if trial.name not in rows]
    total = sum(trial.flops for trial in trials)
    done = total - sum(trial.flops for trial in left)
    with bar("sweep", total / 1e9, "GFLOP", done / 1e9) as progress:
        for trial in left:
            log(f"run {trial.name}: {trial.run.train.steps} steps, {trial.flops:.2g} FLOPs")
            folder = out / trial.name
            row = _train(trial, plan, tokens, model, folder) | {"code": code}
            if jax.process_index() == 0:
                write_row(folder, row)
                write_table(out, plan)
                if not trial.run.train.checkpoints:
                    shutil.rmtree(folder / "checkpoints")
            jax.clear_caches()
            progress.advance(trial.flops / 1e9, **_told(row))
    rows = finished(plan, out)
    if rows and jax.process_index() == 0:
        write_table(out, plan)  # also where all had been finished
    return list(rows.values())


def chosen(plan: SweepPlan, only: Sequence[str] = (), held_out: bool = False) -> list[Trial]:
    """The runs of a plan that are asked for.

    Raises:
        UserError: one is not in the plan.
    """
    trials = {trial.name: trial for trial in ladder(plan)}
    unknown = [name for name in only if name not in trials]
    if unknown:
        raise UserError(f"--only {unknown[0]}: not in the plan; `--dry-run` lists its runs")
    if only:
        return [trials[name] for name in only]
    return [trial for trial in trials.values() if held_out or not trial.held_out]


def finished(plan: SweepPlan, out: Path) -> dict[str, dict[str, Any]]:
    """The rows of the plan's finished runs, by name.

    Raises:
        UserError: a row is damaged, or of a run with other settings.
    """
    rows = {}
    for trial in ladder(plan):
        path = out / trial.name / "row.json"
        if not path.is_file():
            continue
        try:
            rows[trial.name] = row = json.loads(path.read_text(encoding="utf-8"))
            same = row["config"] == trial.hash
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); remove it to run again") from error
        if not same:
            raise UserError(f"{path.parent}: was run with other settings; give another --out")
    return rows


def write_row(folder: Path, row: dict[str, Any]) -> None:
    """Keeps a finished run's row, whole or not at all."""
    write_files(folder, {"row.json": json_bytes(row)})


def write_table(out: Path, plan: SweepPlan) -> None:
    """Makes the table of all finished runs anew."""
    write_files(out, {"runs.csv": rows_text(finished(plan, out).values()).encode()})


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("loss", "speech_nats", "text_nats") if name in row}


def _train(
    trial: Trial, plan: SweepPlan, tokens: str | Path, model: Path, folder: Path
) -> dict[str, Any]:
    """Trains one run in `folder` and leaves its model there; returns its row."""
    run = trial.run
    check_vocabulary(run.lm, model)
    where = [f"{source.folder or tokens}/{source.kind}" for source in run.sources]
    opened = [open_tokens(place, model, "train") for place in where]
    for shards in opened:
        if shards.row != run.row:
            raise UserError(f"{shards.folder}: has rows of {shards.row} ids, run.row is {run.row}")
    train = [
        Source(shards.part(max(1, round(trial.data * len(shards)))), source.weight)
        for shards, source in zip(opened, run.sources, strict=True)
    ]
    mine = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = packed_batches(train, run.train.batch, trial.seed, **mine)
    objective = language_objective(run, codec_config(model).levels)
    place = partial(place_batch, objective, training_mesh(run.train.mesh))
    valid = [open_tokens(one, model, "valid").part(plan.valid_rows) for one in where]
    validate = _validation(run, valid, place, mine)
    fitted = fit(objective, batches, run.train, folder, seed=trial.seed, validate=validate)
    params = gather(fitted.params)
    if jax.process_index() == 0:
        about = {"steps": fitted.steps} | learned_speech(opened[0])
        save_part(folder / "model", "lm", run.lm, params, about)
        _link(model, folder / "model")
    return _row(trial, train, fitted, folder)


def _validation(
    run: DecoderRun, valid: Sequence[TokenShards], place: Callable[[dict], dict], mine: dict
) -> Callable[[dict, int], dict]:
    """(params, step) -> the mixture's loss, and nats (and what the text is worth) by kind."""
    kinds, losses, shares = [], [], []
    for source, shards in zip(run.sources, valid, strict=True):
        # What other texts cost is asked where the text is given.
        asked = run if source.kind == "generation" else replace(run, guide=None)
        batches = ordered_batches(shards, run.train.batch, **mine)
        kinds.append(source.kind)
        losses.append(validation_nats(asked, batches, place))
        shares.append(source.weight * shards.manifest["learned"] / shards.manifest["rows"])

    def validate(params: dict, step: int) -> dict:
        found = [loss(params, step) for loss in losses]
        mixed = np.average([float(one["nats"]) for one in found], weights=shares)
        named = {kind: one["nats"] for kind, one in zip(kinds, found, strict=True)}
        worth = [one["text"] for one in found if "text" in one]
        return {"mixed": mixed} | named | ({"worth": worth[0]} if worth else {})

    return validate


def _link(model: Path, folder: Path) -> None:
    """The other parts of a model, beside the language model that a run has trained."""
    for part in model.iterdir():
        link = folder / part.name
        if not part.name.startswith((".", "lm.")) and not link.is_symlink():
            link.symlink_to(part.resolve(), part.is_dir())


def _row(trial: Trial, train: Sequence[Source], fitted: Fitted, folder: Path) -> dict[str, Any]:
    run, last = trial.run, fitted.curve[-1]
    whole = packed_batches(train, run.train.batch, trial.seed)[: run.train.steps]
    first_code = run.lm.text_vocab + len(TAGS)
    d, flops, codes = 0.0, 0.0, 0
    for batch in whole.to_iter_dataset(READING):
        work = row_work(run.lm, batch)
        d, flops = d + work.tokens, flops + work.flops
        codes += int((batch["tokens"] >= first_code).sum())
    drawn = run.train.steps * run.train.batch / sum(source.weight for source in train)
    unique = sum(
        min(1.0, len(source.shards) / (drawn * source.weight))
        * drawn
        * source.weight
        * source.shards.manifest["ids"]
        / source.shards.manifest["rows"]
        for source in train
    )
    seconds = json.loads((folder / "ledger.json").read_text())["seconds"]
    stepping = seconds["useful"] + seconds["data"]
    devices = jax.devices()[: training_mesh(run.train.mesh).size]
    chips = chip_count(devices)
    settled = [row["nats"] for row in fitted.curve if row["step"] > (1 - LAST) * fitted.steps]
    return {
        "name": trial.name,
        "held_out": int(trial.held_out),
        "budget": trial.budget,
        "flops": flops,
        "n": parameter_count(run.lm),
        "n_inner": parameter_count(run.lm, tables=False),
        "d": round(d),
        "d_text": round(d) - codes,
        "d_speech": codes,
        "unique": round(min(unique, d)),
        "data": trial.data,
        "width": run.lm.dim,
        "layers": run.lm.layers,
        "rows": run.train.batch,
        "steps": fitted.steps,
        "rate": run.train.optimizer.peak,
        "seed": trial.seed,
        "loss": last["valid_mixed"],
        "speech_nats": last.get("valid_generation"),
        "text_nats": last.get("valid_understanding"),
        "text_worth": last.get("valid_worth"),
        "train_nats": float(np.mean(settled)),
        "tokens_s": d / stepping / chips,
        "flops_s": flops / stepping / chips,
        "mfu": utilisation(flops, stepping, devices),
        "seconds": sum(seconds.values()),
        "device": devices[0].device_kind,
        "chips": chips,
        "config": trial.hash,
    }


def estimate(
    plan: SweepPlan, trials: Sequence[Trial], rows: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What each run is and would take: JSON-able.

    Hours are by the rate of finished runs of the same width, or by the plan's `flops_s`; `rate_of`
    says which. Compiling and validation are not in the plan's rate.
    """
    found = []
    for trial in trials:
        run = trial.run
        alike = [row for row in rows.values() if row["width"] == run.lm.dim]
        hours = trial.flops / plan.flops_s / 3600
        if alike:
            rate = median(row["flops"] / row["seconds"] / row["chips"] for row in alike)
            hours = trial.flops / rate / 3600
        found.append(
            {
                "name": trial.name,
                "finished": trial.name in rows,
                "held_out": trial.held_out,
                "n": parameter_count(run.lm),
                "n_inner": parameter_count(run.lm, tables=False),
                "layers": run.lm.layers,
                "width": run.lm.dim,
                "tokens": trial.tokens,
                "flops": trial.flops,
                "steps": run.train.steps,
                "rows": run.train.batch,
                "rate": run.train.optimizer.peak,
                "seed": trial.seed,
                "data": trial.data,
                "chip_hours": hours,
                "rate_of": "finished runs of this width" if alike else "the plan",
                "cost": hours * plan.price,
            }
        )
    return found


def submit(
    config: str,
    trials: Sequence[Trial],
    way: str,
    topology: str,
    settings: Sequence[str],
    *,
    dry_run: bool = False,
) -> None:
    """Starts each run as a job of its own by `launch/pod.sh`, all at once, and waits for their end.

    The scheduler queues them. What a finished run left is seen by its job, which then ends.

    Args:
        config: name of the plan in configs/.
        way, topology: as `launch/pod.sh` takes them (docs/launch.md).
        settings: `--set` of the sweep.
        dry_run: print the commands and manifests only.

    Raises:
        UserError: there is no source checkout, or jobs failed; they are named.
    """
    script = config_folder().parent / "launch" / "pod.sh"
    if not script.is_file():
        raise UserError("sweep --way: launch/pod.sh is in the source checkout only; run it there")
    given = [word for setting in settings for word in ("--set", setting)]
    given += ["--topology", topology] + ["--dry-run"] * dry_run
    jobs = []
    for trial in trials:
        words = [way, "run", trial.job, config, "--only", trial.name, *given]
        job = subprocess.Popen(["bash", str(script), *words])
        if dry_run:
            job.wait()  # one text after the other
        jobs.append((trial.name, job))
    failed = [name for name, job in jobs if job.wait() != 0]
    if failed:
        some = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise UserError(f"sweep --way {way}: {len(failed)} of {len(jobs)} jobs failed: {some}")


def speak(
    plan: SweepPlan, out: Path, *, utterances: int, only: Sequence[str] = (), seed: int = 0
) -> list[dict[str, Any]]:
    """Speaks held-out sentences with the finished runs that have not, and counts words by
    pocketsphinx; returns the rows."""
    wanted = [trial.name for trial in chosen(plan, only, held_out=True)]
    rows = finished(plan, out)
    left = [name for name in wanted if name in rows and "wer" not in rows[name]]
    texts = FliteEnglish(default_cache()).held_out(utterances)
    judge = Pocketsphinx()
    with bar("speak with each model", len(left), "models") as progress:
        for name in left:
            folder = out / name
            voice = Voice(folder / "model")
            names = list(voice.voices)
            speakers = [names[i % len(names)] for i in range(len(texts))]
            said = spoken(voice, judge, texts, speakers, seed)
            low, high = said["judge_wer_interval"]
            row = rows[name] | {"wer": said["judge_wer"], "wer_low": low, "wer_high": high}
            row |= {key: said[key] for key in ("failures", "sentences")}
            write_row(folder, row)
            write_table(out, plan)
            jax.clear_caches()
            progress.advance(1, wer=said["judge_wer"], failures=said["failures"])
    return list(finished(plan, out).values())
