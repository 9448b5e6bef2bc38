"""The training loop, one for codec, language model and recognisers; it reads top to bottom.

What a step is stands in `step`; here are its state's way through a run, interruptions included:
resumed, stopped as asked, or taken back to the last good checkpoint, it gives the same bits.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from llasa_jax.config import TrainConfig, to_dict
from llasa_jax.console import Bar, bar
from llasa_jax.data.pipeline import READING
from llasa_jax.errors import Saved, UserError
from llasa_jax.parallel.distributed import Votes, lay
from llasa_jax.training.checkpoints import Checkpoints, Keep
from llasa_jax.training.meter import Ledger, Meter, Work
from llasa_jax.training.record import Curve, Events, Pace, Plan
from llasa_jax.training.step import (
    Objective,
    abstract_state,
    everywhere,
    first_state,
    kept,
    learning,
    make_step,
    place_batch,
    places,
    training_mesh,
)
from llasa_jax.training.stopping import Stop, Watchdog

T = TypeVar("T")

SAVE, STOP = 1, 2  # what a process may want between steps
TRIES = 3  # a run that comes to the same bad steps from the same checkpoint so often ends


@dataclass(frozen=True)
class Fitted:
    """What a run leaves: parameters on the mesh, its curve (a row a logged step), its steps."""

    params: dict
    curve: list[dict]
    steps: int


# Batches by number; or, of a model that learns from what itself does, by its parameters and number.
Batches = grain.MapDataset | Callable[[dict, int], dict]


def fit(
    objective: Objective,
    batches: Batches,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    validate: Callable[[dict, int], dict] | None = None,
    budget: float | None = None,
) -> Fitted:
    """Trains from the newest checkpoint of `folder`, or from the start, to `config.steps`.

    Args:
        batches: element i is this process's rows of step i's batch, a dict of arrays: a pure
            function of i, so that a resumed run sees what the undisturbed one sees. Or a function
            (parameters, i) that makes it: of the parameters after step i, on the mesh, alone, or of
            those of an earlier step if it remembers what it made of them over a restart.
        validate: (parameters, step) -> metrics, called every `valid_every` steps and at the end;
            the parameters are the trained ones and `objective.frozen`, side by side on the mesh.
        budget: seconds for this run, compiling included. A machine too slow for `steps` in them
            makes fewer: as many as its latest rate affords, but a tenth at least, looked at now
            and then in the first half of the run and kept in `plan.json`, which a resumed run
            follows. It does not foresee that a rival makes later steps slower.

    Raises:
        UserError: if steps are bad again and again, the folder belongs to another run, no
            checkpoint in it is whole, or the devices are not those of `config.mesh`.
        Saved: SIGTERM came to any process; all have saved, at the same step.
    """
    mesh = training_mesh(config.mesh)
    if budget is not None and jax.process_count() > 1:
        raise UserError("training: a time budget is for one process; set train.steps")
    folder.mkdir(parents=True, exist_ok=True)
    with Stop() as stop:
        run = _Run(objective, batches, config, folder, seed, budget, mesh)
        with (
            closing(run),
            Watchdog(run.ledger, run.step_of, 60 * config.watch_minutes),
            bar(f"train {objective.name}", run.plan.steps, "steps", done=run.step) as progress,
        ):
            votes = Votes(mesh)
            while run.step < run.plan.steps:
                run.take_step()
                progress.advance()
                asked = votes.cast(STOP if stop.asked else SAVE if run.save_is_due() else 0)
                if run.meter.bad >= config.bad_steps:
                    progress.advance(run.go_back() - progress.done)
                    continue
                if run.meter.step % config.log_every == 0 and not run.meter.empty:
                    run.write(run.meter.row(), progress)
                if run.pace.looks(run.step):
                    progress.total = run.look_at_pace()
                last = run.step == run.plan.steps
                saving = last or run.step % config.save_every == 0
                validating = validate and (last or run.step % config.valid_every == 0)
                # A saved step ends its row, so that a resumed run writes the same rows.
                if saving or validating:
                    run.meter.read()
                    row = run.meter.row() | (run.validated(validate) if validating else {})
                    run.write(row, progress)
                if saving and (last or not run.meter.bad):
                    run.save()
                elif asked and (asked == STOP or not run.meter.bad):
                    run.save(temporary=True)
                if asked == STOP and not last:
                    run.whole_or_error()
                    raise Saved(f"stopped as asked after step {run.step}, saved")
            run.whole_or_error()
            if votes.settle(STOP if stop.asked else 0):
                raise Saved(f"stopped as asked after step {run.step}, the last, saved")
    return Fitted(kept(run.state), run.curve.rows, run.plan.steps)


class _Run:
    """A run under way: its state on the devices, and everything that moves with it.

    Attributes:
        step: steps taken.
        moved: so many batches were left out: step i + 1 is of batch i + moved.
        row: the last step that is in a row of the curve.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        config: TrainConfig,
        folder: Path,
        seed: int,
        budget: float | None,
        mesh: Mesh,
    ):
        self.objective, self.batches, self.config = objective, batches, config
        self.reads = isinstance(batches, grain.MapDataset)
        self.seed, self.mesh = seed, mesh
        self.plan, self.events = Plan.open(folder, config, seed), Events(folder)
        keep = Keep(config.keep, config.keep_every, config.keep_best)
        place = config.checkpoints or folder / "checkpoints"
        self.checkpoints = Checkpoints(place, keep, tell=self.events.tell)
        self.ledger = Ledger(folder / "ledger.json", self.checkpoints.latest or 0)
        self.feed: Feed | None = None
        self.compiled: set[frozenset[str]] = set()  # parts of the state that a compiled step takes
        self.gone_back = Counter[int]()
        self.valid: dict[str, float] = {}  # of the step in `row`
        self.saved, self.saved_at = True, time.monotonic()
        with self.ledger.spent("start"):
            self.template, frozen_template = abstract_state(objective, config, mesh)
            self.frozen = lay(objective.frozen, places(frozen_template))
            keys = jax.jit(
                lambda: tuple(jax.random.split(jax.random.key(seed))),
                out_shardings=everywhere(mesh),
            )
            self.init_key, self.step_key = keys()
            self._restore()
        self.curve = Curve(folder, self.row)
        self.step_fn = jax.jit(make_step(objective, config, mesh), donate_argnums=0)
        self.steps = lay(np.int32(self.plan.steps), everywhere(mesh))
        self.pace = Pace(self.plan, budget, self.step)

    def _restore(self, before: int | None = None) -> None:
        """Stands where the newest whole checkpoint was saved, or at the start."""
        self.state: Any = None  # room for the other
        found = self.checkpoints.newest(self.template, before)
        if found is None:
            state = first_state(self.objective, self.config, self.template, self.init_key)
            found = 0, state, {}
        self.step, self.state, about = found
        self.moved, self.row = about.get("moved", 0), about.get("row", self.step)
        self.ledger.back(self.step)
        pending = about.get("pending")
        self.meter = Meter(self.ledger, self.mesh.devices.flat, self.step, pending)

    def step_of(self, doing: str) -> int:
        """The step that seconds of this kind are for: the one on the devices, or the next."""
        return 1 + (self.meter.step if doing == "useful" else self.step)

    def take_step(self) -> None:
        batch, work = self._next() if self.reads else self._make()
        learners = learning(self.objective, self.state, self.step / self.plan.steps)
        parts = frozenset(learners)
        with self.ledger.spent("useful" if parts in self.compiled else "compile"):
            self.compiled.add(parts)
            given = (learners, self.frozen, batch, self.step_key, self.steps)
            learners, metrics = self.step_fn(*given)
        self.state |= learners
        self.step += 1
        self.meter.push(metrics, work)

    def _next(self) -> tuple[dict, Work | None]:
        """The next batch of those that a thread loads."""
        if self.feed is None:
            self.feed = Feed(self._load(), self.ledger)
        return self.feed.next(self.meter)

    def _make(self) -> tuple[dict, Work | None]:
        """The next batch, of the parameters as they are now."""
        jax.block_until_ready(self.state)
        with self.ledger.spent("data"):
            batch = self.batches(self.state["model"]["params"], self.step + self.moved)
        return self._placed(batch)

    def _placed(self, batch: dict) -> tuple[dict, Work | None]:
        work = None if self.objective.work is None else self.objective.work(batch)
        return place_batch(self.objective, self.mesh, batch), work

    def _load(self) -> Iterator[tuple[dict, Work | None]]:
        """The batches from here on, on the mesh."""
        rest = self.batches[self.step + self.moved : self.plan.steps + self.moved]
        for batch in rest.to_iter_dataset(READING):
            yield self._placed(batch)

    def validated(self, validate: Callable[[dict, int], dict]) -> dict[str, float]:
        with self.ledger.spent("validation"), jax.set_mesh(self.mesh):
            found = validate(kept(self.state) | self.frozen, self.step)
        self.valid = {name: float(value) for name, value in found.items()}
        return {f"valid_{name}": value for name, value in self.valid.items()}

    def write(self, row: dict, progress: Bar) -> None:
        self.valid = self.valid if any(name.startswith("valid_") for name in row) else {}
        self.row = row["step"]
        self.curve.write(row)
        progress.advance(0, **{name: value for name, value in row.items() if name != "step"})

    def look_at_pace(self) -> int:
        """The run's length, by what this machine affords."""
        jax.block_until_ready(self.state)
        length = self.pace.look(self.step)
        self.steps = lay(np.int32(length), everywhere(self.mesh))
        return length

    def save_is_due(self) -> bool:
        """Whether so much time has passed since the last save; process 0's clock counts."""
        minutes = self.config.save_minutes if jax.process_index() == 0 else 0
        return 0 < 60 * minutes <= time.monotonic() - self.saved_at

    def save(self, temporary: bool = False) -> None:
        """Saves where the run stands; a temporary save does not end a row, but keeps its steps."""
        self.meter.read()
        self.ledger.saving(self.step)
        self.saved_at = time.monotonic()
        about = {
            "temporary": temporary,
            "seed": self.seed,
            "moved": self.moved,
            "row": self.row,
            "pending": self.meter.pending(),
            "valid": self.valid if self.row == self.step else {},
            "objective": self.objective.name,
            "train": to_dict(self.config),
            "run": self.objective.about,
        }
        with self.ledger.spent("checkpoint"):
            self.saved = self.checkpoints.save(self.step, self.state, about)

    def go_back(self) -> int:
        """Stands at the last checkpoint before the bad steps, with the data moved on; its step.

        Raises:
            UserError: that was tried before.
        """
        last, bad, batch = self.meter.step, self.meter.bad, self.step + self.moved
        with self.ledger.spent("start"):
            self._close_feed()
            self.checkpoints.settle()
            self._restore(before=last - bad)
        self.moved = batch - self.step
        self.curve.back(self.row)
        self.gone_back[self.step] += 1
        since = f"since step {last - bad + 1} (now {last})"
        if self.gone_back[self.step] == TRIES:
            raise UserError(
                f"training {self.objective.name}: the loss is not finite, or spikes, {since}, "
                f"again after going back to step {self.step} with other data; lower "
                "train.optimizer.peak"
            )
        self.events.tell(
            f"all steps were skipped {since}: back to step {self.step}, on with batch {batch}",
            step=last,
            back_to=self.step,
            moved=self.moved,
        )
        return self.step

    def whole_or_error(self) -> None:
        """Waits for the last save.

        Raises:
            UserError: it failed.
        """
        with self.ledger.spent("checkpoint"):
            whole = self.checkpoints.settle() and self.saved
        if not whole:
            raise UserError(
                f"checkpoint of step {self.step}: could not be saved, the newest whole one is of "
                f"step {self.checkpoints.latest}; make room, then run the same command again"
            )

    def _close_feed(self) -> None:
        if self.feed is not None:
            self.feed.close()
            self.feed = None

    def close(self) -> None:
        self._close_feed()
        with self.ledger.spent("checkpoint"):
            self.checkpoints.close()
        self.ledger.write()
        self.curve.close()


class Feed:
    """The batches of a run; a thread is always one ahead."""

    def __init__(self, batches: Iterator[T], ledger: Ledger):
        self._batches, self._ledger = batches, ledger
        self._loader = ThreadPoolExecutor(1)
        self._coming = self._load()

    def _load(self) -> Future[T | None]:
        return self._loader.submit(next, self._batches, None)

    def next(self, meter: Meter) -> T:
        """The next batch; waiting for it counts from when the devices have nothing to do."""
        if not self._coming.done():
            jax.block_until_ready(meter.newest)
        with self._ledger.spent("data"):
            found = self._coming.result()
        self._coming = self._load()
        return found

    def close(self) -> None:
        self._loader.shutdown(cancel_futures=True)


def kept_along(
    objective: Objective, config: TrainConfig, folder: Path
) -> Iterator[tuple[int, dict]]:
    """(step, parameters) of all checkpoints in a run's folder, from the oldest to the newest.

    Raises:
        UserError: there is none, or one is damaged or of another configuration.
    """
    place = config.checkpoints or folder / "checkpoints"
    checkpoints = Checkpoints(place, reading=True)
    try:
        if not checkpoints.steps:
            raise UserError(f"{folder}: holds no checkpoint; train first")
        template, _ = abstract_state(objective, config, training_mesh(config.mesh))
        for step in checkpoints.steps:
            yield step, kept(checkpoints.restore(step, template))
    finally:
        checkpoints.close()
