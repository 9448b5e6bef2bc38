"""The slots of a sampler, as the host sees them: it fills them and reads them."""

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh

from llasa_jax.config import DecoderConfig, GuardConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.blank import blank_prompt
from llasa_jax.parallel.mesh import on_mesh
from llasa_jax.search import cache, decoding
from llasa_jax.search.cache import ENDED, LOOPED, RUNNING, SILENT
from llasa_jax.search.decoding import IGNORE, Limits
from llasa_jax.search.draw import candidate_keys
from llasa_jax.search.take import LOOP, SILENCE, Take

if TYPE_CHECKING:
    from llasa_jax.search.sampler import Sampler

FOREVER = np.iinfo(np.int32).max
NARROWEST = 64  # tokens of the smallest program for prompts


class Start(NamedTuple):
    """A candidate that a slot begins to draw."""

    row: int
    column: int
    seed: int
    key: int
    number: int
    min_codes: int
    max_codes: int


class Seen(NamedTuple):
    """What the host knows of the slots [G, C] after a call."""

    ending: np.ndarray
    lengths: np.ndarray
    log_probability: np.ndarray


class Session:
    """Rows and slots for prompts that may come while others are spoken.

    Args:
        rows, columns: G and C.
        longest: tokens of the longest prompt for which there is room from the start.
        most: codes of the longest take.
        guards: whose `loop_codes` and `silent_codes` stop takes; None: nothing stops them.

    Raises:
        UserError: if the caches do not fit into the memory that is free.
    """

    def __init__(
        self,
        sampler: "Sampler",
        rows: int,
        columns: int,
        *,
        longest: int,
        most: int,
        guards: GuardConfig | None = None,
    ):
        # With guidance each row has a twin after it, whose prompt's text is blank.
        self._copies = 1 if sampler.config.guidance == 1 else 2
        whole = rows * self._copies, columns
        check_memory(sampler.lm, *whole, longest, most, sampler.mesh)
        self._sampler, self.shape = sampler, (rows, columns)
        self._seeds = np.zeros(self.shape, np.uint32)
        self._prompted = np.zeros(rows, np.int32)  # tokens of each row's prompt
        self.drawn = np.zeros(rows, np.int64)  # tokens, codes and END, by row
        settings = sampler.lm, sampler.config, whole, longest, sampler.room
        self._rows, self._slots = cache.empty(sampler.mesh, *settings)()
        loops, quiet = (guards.loop_codes, guards.silent_codes) if guards else (0, 0)
        silent = sampler.silent
        self._limits = functools.partial(
            Limits, loop_codes=np.int32(loops), silent_codes=np.int32(quiet), silent=silent
        )
        self.seen = self._look()

    def _mesh(self) -> contextlib.AbstractContextManager:
        mesh = self._sampler.mesh
        return contextlib.nullcontext() if mesh is None else on_mesh(mesh)

    def _look(self) -> Seen:
        slots = self._slots
        # Copies: what a CPU gives the host may be the device's own memory, which is donated later.
        found = slots.ending, slots.lengths, slots.log_probability
        return Seen(*(np.array(x[:: self._copies]) for x in jax.device_get(found)))

    def _spread(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Arrays of the rows [G, ...] as the device has them: twins are told the same."""
        return [np.repeat(one, self._copies, axis=0) for one in arrays]

    def _twins(self, places: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Prompts of rows as the device has them."""
        if self._copies == 1:
            return dict(places)
        text = self._sampler.lm.text_vocab
        blank = {2 * row + 1: blank_prompt(prompt, text) for row, prompt in places.items()}
        return {2 * row: prompt for row, prompt in places.items()} | blank

    def install(self, places: Mapping[int, np.ndarray]) -> None:
        """Computes prompts, ids int32 [T] each, and puts them into rows: {row: prompt}.

        What stands in several rows is computed once.
        """
        for row, prompt in places.items():
            self._prompted[row] = len(prompt)
        while self._prompted.max() > self._rows.seen.shape[1]:
            with self._mesh():
                self._rows = cache.widen(self._rows)
        places, count = self._twins(places), self.shape[0] * self._copies
        rows_of: dict[bytes, list[int]] = {}
        for row, prompt in places.items():
            rows_of.setdefault(prompt.tobytes(), []).append(row)
        by_width: dict[int, list[list[int]]] = {}
        for rows in rows_of.values():
            by_width.setdefault(width(len(places[rows[0]])), []).append(rows)
        at_once = self._sampler.prompts_at_once(count)
        for size, waiting in by_width.items():
            for first in range(0, len(waiting), at_once):
                tokens = np.zeros((at_once, size), np.int32)
                lengths = np.ones(at_once, np.int32)
                source = np.full(count, -1, np.int32)
                for place, rows in enumerate(waiting[first : first + at_once]):
                    prompt = places[rows[0]]
                    lengths[place] = len(prompt)
                    tokens[place, : len(prompt)] = prompt
                    source[rows] = place
                with self._mesh():
                    new = self._sampler.prefill(tokens, lengths)
                    self._rows = cache.install(self._rows, new, source)

    def begin(self, starts: Sequence[Start]) -> None:
        """Begins candidates in their slots."""
        chosen = np.zeros(self.shape, bool)
        keys, numbers, least, most = np.zeros((4, *self.shape), np.int32)
        for start in starts:
            place = start.row, start.column
            chosen[place], self._seeds[place] = True, start.seed % 2**32
            keys[place], numbers[place] = start.key, start.number
            least[place], most[place] = max(1, start.min_codes), start.max_codes
        with self._mesh():
            random = self._keys(keys, numbers)
            told, bounds = self._spread(chosen), tuple(self._spread(least, most))
            self._slots = cache.begin(self._slots, self._rows, *told, random, bounds)
        ending = np.where(chosen, np.where(most > 0, RUNNING, cache.CUT), self.seen.ending)
        lengths = np.where(chosen, 0, self.seen.lengths)
        self.seen = Seen(ending, lengths, np.where(chosen, 0, self.seen.log_probability))

    def fork(
        self, parents: np.ndarray, keys: np.ndarray, numbers: np.ndarray, kept: np.ndarray
    ) -> None:
        """Each slot goes on from its parent's place, a column of its row, as another candidate.

        Args:
            parents, keys, numbers: [G, C].
            kept: which slots go on [G, C]; the others stay empty.
        """
        self._seeds = np.take_along_axis(self._seeds, parents, 1)
        with self._mesh():
            random = self._keys(keys, numbers)
            parts, stay = self._spread(np.int32(parents), kept)
            self._slots = cache.fork(self._slots, parts, random, stay)
        seen = Seen(*(np.take_along_axis(x, parents, 1) for x in self.seen))
        self.seen = seen._replace(ending=np.where(kept, seen.ending, cache.EMPTY))

    def _keys(self, keys: np.ndarray, numbers: np.ndarray) -> jax.Array:
        flat = self._spread(self._seeds, np.int32(keys), np.int32(numbers))
        return candidate_keys(*(x.ravel() for x in flat)).reshape(flat[0].shape)

    def decode(
        self, wanted: Sequence[int] | None = None, wait: int = 1, steps: int = FOREVER
    ) -> None:
        """Draws until so many slots that are `wanted` are free, none runs, or the steps are done.

        Caches grow as they fill.
        """
        wanted = np.full(self.shape[0], IGNORE) if wanted is None else np.asarray(wanted)
        before = self._tokens()
        while True:
            (told,), most = self._spread(np.int32(wanted)), np.int32(wait * self._copies)
            limits = self._limits(wanted=told, wait=most, steps=steps)
            with self._mesh():
                self._slots, done = self._sampler.decode(self._rows, self._slots, limits)
            self.seen = self._look()
            steps -= int(done)
            running = self.seen.ending == RUNNING
            full = running.any() and steps > 0 and not self._enough(running, wanted, wait)
            if not full:
                self.drawn += self._tokens() - before
                return
            with self._mesh():
                self._slots = cache.grow(self._slots)

    def trim(self) -> None:
        """Gives back the parts of caches which no take that runs needs, and ended takes with them.

        For slots that are refilled for hours: one long take would else make all later ones slow.
        """
        running, lengths = self.running(), self.seen.lengths
        prompts = int(self._prompted[running.any(1)].max(initial=1))
        codes = int(lengths[running].max(initial=0)) + cache.CHUNK
        self._rows = cache.trim_prompts(self._rows, prompts)
        self._slots = cache.trim_slots(self._slots, codes, self._sampler.room)

    def _tokens(self) -> np.ndarray:
        return (self.seen.lengths + (self.seen.ending == ENDED)).sum(1)

    def _enough(self, running: np.ndarray, wanted: np.ndarray, wait: int) -> bool:
        free, idle = (~running).sum(1), ~running.any(1) * running.shape[1]
        counted = np.where(wanted == decoding.ANY, free, (wanted == decoding.WHOLE) * idle)
        return counted.sum() >= wait

    def running(self) -> np.ndarray:
        """Which slots have not ended, bool [G, C]."""
        return self.seen.ending == RUNNING

    def takes(self, places: Iterable[tuple[int, int]]) -> list[Take]:
        """What the slots (row, column) hold, ended or not."""
        codes = np.asarray(self._slots.codes)[:: self._copies]
        found = []
        for place in places:
            ending = self.seen.ending[place]
            found.append(
                Take(
                    codes[place][: self.seen.lengths[place]].copy(),
                    bool(ending == ENDED),
                    float(self.seen.log_probability[place]),
                    doomed={LOOPED: LOOP, SILENT: SILENCE}.get(int(ending), ""),
                )
            )
        return found


def check_memory(
    lm: DecoderConfig, rows: int, columns: int, prompt: int, most: int, mesh: Mesh | None
) -> None:
    """Refuses slots whose caches, at their longest, exceed the memory that is free.

    Raises:
        UserError: with how many slots would fit.
    """
    devices = 1 if mesh is None else mesh.size
    one = 2 * lm.layers * lm.kv_heads * lm.head_dim * jnp.dtype(lm.compute_dtype).itemsize
    shared, own = one * rows * sum(cache.part_sizes(prompt)), one * most
    free = free_bytes() * devices
    if shared + rows * columns * own > free:
        fit = max(0, int((free - shared) // own))
        raise UserError(
            f"sampler: {rows * columns} candidates at once of up to {most} codes need "
            f"{(shared + rows * columns * own) / 2**30:.1f} GiB, {free / 2**30:.1f} are free; "
            f"at most {fit} fit"
        )


def free_bytes() -> float:
    """Memory of a device that nothing holds yet."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return psutil.virtual_memory().available / jax.local_device_count()
    return stats["bytes_limit"] - stats["bytes_in_use"]


def width(length: int) -> int:
    """Tokens of the program that computes a prompt: two sizes from a power of two to the next."""
    power = 1 << (length - 1).bit_length()
    return max(NARROWEST, 3 * power // 4 if length <= 3 * power // 4 else power)
