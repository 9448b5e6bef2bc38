"""Scaling laws: `llasa sweep`, `fit`."""

from pathlib import Path

from llasa_jax.cli.common import command, seed, settings


def add_sweep(commands) -> None:
    text = "Train the runs of a ladder, each once: budgets in FLOPs, shapes by rule, a row a run."
    parser = command(commands, "sweep", _run_sweep, text)
    settings(parser)
    parser.add_argument("--tokens", default=None, help="token rows that `data prepare` wrote")
    help = "folder with the codec, its tokenizer and, to speak, the verifiers and voices"
    parser.add_argument("--model", type=Path, default=None, help=help)
    help = "folder of the ladder: runs.csv, and a folder a run; the same command goes on there"
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help=help)
    help = "a run of the plan; may be repeated (default: all)"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=help)
    help = "also train the held-out runs, which are forecast"
    parser.add_argument("--held-out", action="store_true", help=help)
    help = "list the runs, their FLOPs, hours and cost, and start nothing"
    parser.add_argument("--dry-run", action="store_true", help=help)
    help = "speak so many held-out sentences with each finished run instead of training"
    parser.add_argument("--speak", type=int, default=0, metavar="SENTENCES", help=help)
    help = "start each run as a job by launch/pod.sh: gke, skypilot, slurm, ... (docs/launch.md)"
    parser.add_argument("--way", default=None, help=help)
    help = "of --way: chip and grid of a job, v6e:2x4; GPUs: gpu:1x8"
    parser.add_argument("--topology", default=None, help=help)
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")


def _run_sweep(options) -> None:
    from llasa_jax.config import SweepPlan, load_config
    from llasa_jax.errors import UserError
    from llasa_jax.recipes import sweep
    from llasa_jax.recipes.stages import model_folder
    from llasa_jax.recipes.start import start
    from llasa_jax.scaling.report import planned_table, runs_table

    plan = load_config(options.config, SweepPlan, options.set)
    if options.dry_run:
        trials = sweep.chosen(plan, options.only, held_out=True)
        found = sweep.estimate(plan, trials, sweep.finished(plan, options.out))
        _show([planned_table(found, plan.price)], {"runs": found}, options.json)
    if options.way is not None:
        if options.topology is None:
            raise UserError("sweep --way: needs --topology, chip and grid of a job")
        trials = sweep.chosen(plan, options.only, options.held_out)
        given = (options.way, options.topology, options.set)
        sweep.submit(options.config, trials, *given, dry_run=options.dry_run)
    if options.dry_run or options.way is not None:
        return
    if options.speak:
        found = sweep.speak(plan, options.out, utterances=options.speak, only=options.only)
    else:
        if options.tokens is None or options.model is None:
            raise UserError("sweep: needs --tokens and --model; or --dry-run")
        start(plan.run.train)
        where = (options.tokens, model_folder(options.model), options.out)
        found = sweep.sweep(plan, *where, only=options.only, held_out=options.held_out)
    _show([runs_table(found)], {"runs": found}, options.json)


def add_fit(commands) -> None:
    text = "Fit scaling laws to a table of runs, draw them, and forecast a plan's held-out runs."
    parser = command(commands, "fit", _run_fit, text)
    help = "runs.csv as `sweep` leaves it, or any with columns n, d, flops and loss"
    parser.add_argument("table", type=Path, metavar="RUNS.CSV", help=help)
    help = "the sweep's plan: its held-out runs are forecast, once, and compared when they have run"
    parser.add_argument("--plan", default=None, help=help)
    help = "curve.json of `llasa curve` with best-of-N; repeated, of models that differ in size"
    parser.add_argument("--curve", type=Path, action="append", default=[], help=help)
    help = "folder for fit.json, tables.md, figures and forecasts (default: print alone)"
    parser.add_argument("--out", type=Path, default=None, help=help)
    help = "of the runs, for the intervals (500)"
    parser.add_argument("--resamples", type=int, default=500, metavar="COUNT", help=help)
    parser.add_argument("--json", action="store_true", help="print every number as JSON")
    seed(parser)


def _run_fit(options) -> None:
    from llasa_jax.config import SweepPlan, load_config
    from llasa_jax.errors import UserError
    from llasa_jax.scaling.report import fit_report, fit_tables

    if not 20 <= options.resamples <= 100_000:
        raise UserError(f"--resamples {options.resamples}: from 20 to 100000")
    found = fit_report(
        options.table,
        plan=load_config(options.plan, SweepPlan) if options.plan else None,
        curves=options.curve,
        out=options.out,
        resamples=options.resamples,
        seed=options.seed,
    )
    _show(fit_tables(found), found, options.json)


def _show(tables, found: dict, as_json: bool) -> None:
    from rich.console import Console

    from llasa_jax.evaluation.page import json_bytes
    from llasa_jax.evaluation.tables import for_console

    if as_json:
        print(json_bytes(found).decode(), end="")
        return
    for table in tables:
        Console().print(for_console(table))
        print(table.note)
