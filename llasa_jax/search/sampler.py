"""Many prompts x many candidates through a fixed number of slots, each refilled when it is free.

A prompt is computed once and its cache is shared by its candidates; each candidate has its own
cache for what it says. Only the speech ids and END are ever scored, which is exact, for nothing
else may follow START. A candidate's randomness hangs on (seed, key of its prompt, its number, step)
and on nothing else, so the same candidate comes out whatever else is in the batch, and the first n
of a pool of candidates are the pool of n.

On a CPU the slots of a small decoder are drawn side by side, a thread a core (`lanes`): XLA's own
threads gain nothing on products as small as those of a step.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, GuardConfig, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.parallel.distributed import usable_cores
from llasa_jax.parallel.mesh import Rules, shardings
from llasa_jax.search import decoding
from llasa_jax.search.cache import CHUNK, RUNNING
from llasa_jax.search.decoding import ANY, IGNORE, WHOLE
from llasa_jax.search.session import Session, Start, check_memory
from llasa_jax.search.take import Take

REDRAWN = 1 << 20  # added to a candidate's number whenever it is drawn again
EARLY = 8  # the loop stops for refilling when one of so many slots is free
LANE = 4  # slots side by side, at least; twins of guidance count
SMALL = 32 << 20  # bytes of a decoder that every core may read anew each step, from a shared cache


def prepared(lm: DecoderConfig, params: dict) -> tuple[nnx.GraphDef, dict]:
    """The decoder as the loop takes it: layers apart, in the dtype of its products.

    Else the loop would copy each layer out of stacked arrays whenever it is entered, and cast all
    of them each step.
    """
    graphdef, _ = nn.abstract(lambda rngs: Decoder(lm, rngs=rngs))
    dtype = jnp.dtype(lm.compute_dtype)
    return nn.for_inference(graphdef, jax.tree.map(lambda x: x.astype(dtype), params))


class Sampler:
    """Draws takes from a decoder.

    Args:
        graphdef, params: the decoder, as `nn.split` gives it.
        vocabulary: must have the decoder's number of text ids and codes.
        slots: candidates that are drawn at once, at most (`shape`).
        columns: slots that share a row's prompt; default: as many as the candidates of a call.
        room: codes that fit into the first caches; they double whenever they are full.
        silent: codes that are known to be silent, for `GuardConfig.silent_codes`.
        mesh: lays prompts over data and fsdp, heads and feed-forward over tensor.

    Raises:
        UserError: if vocabulary and decoder differ, or the mesh does not divide the decoder.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: dict,
        vocabulary: Vocabulary,
        config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
        *,
        slots: int = 64,
        columns: int | None = None,
        room: int = 128,
        silent: Sequence[int] = (),
        mesh: Mesh | None = None,
    ):
        lm = nnx.merge(graphdef, nnx.State(params)).config
        if (lm.text_vocab, lm.codes) != (vocabulary.text_vocab, vocabulary.code_count):
            raise UserError(
                f"sampler: the model has {lm.text_vocab} text ids and {lm.codes} codes, its "
                f"tokenizer {vocabulary.text_vocab} and {vocabulary.code_count}"
            )
        if mesh is not None:
            axes = nn.logical_axes(graphdef, params)
            params = jax.device_put(params, shardings(mesh, Rules(), axes, params))
        self.lm = replace(lm, scan_layers=False, remat="none", attention="reference")
        graphdef, params = prepared(self.lm, params)
        self.config, self.slots, self.mesh = config, slots, mesh
        size = sum(x.nbytes for x in jax.tree.leaves(params))
        alone = mesh is not None or jax.default_backend() != "cpu" or size > SMALL
        self.cores = 1 if alone else usable_cores()
        self.columns, self.room = columns, -(-room // CHUNK) * CHUNK
        self.silent = np.zeros(lm.codes, bool)
        self.silent[list(silent)] = True
        shared = dict(graphdef=graphdef, config=config, first_code=vocabulary.first_code)
        self.prefill = functools.partial(decoding.prefill, params, **shared)
        end = vocabulary.speech_end
        self.decode = functools.partial(decoding.decode, params, end=end, **shared)

    @property
    def _parts(self) -> int:
        """Devices that rows are split over."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def prompts_at_once(self, rows: int) -> int:
        """Prompts that are computed together: few, for rows become free one by one."""
        return max(1, rows // EARLY // self._parts) * self._parts

    def rows(self, needed: int, columns: int) -> int:
        """Rows of so many columns that are made for a call that needs so many.

        A power of two, unless there are fewer slots, and on a mesh some for each device: few
        programs are compiled.
        """
        rows = min(self.slots // columns, 1 << max(0, needed - 1).bit_length())
        return -(-max(1, rows) // self._parts) * self._parts

    def shape(self, counts: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the slots for so many candidates of each prompt.

        The program hangs on them, and so do the last bits of a result; on nothing else of a call.
        """
        columns = min(self.columns or max(counts, default=1), self.slots)
        return self.rows(sum(-(-count // columns) for count in counts), columns), columns

    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        *,
        candidates: int | Sequence[Sequence[int]],
        min_codes: Sequence[int],
        max_codes: Sequence[int],
        seed: int,
        keys: Sequence[int] | None = None,
        retries: int = 0,
        failed: Callable[[Take], bool] = lambda take: not take.stopped,
        guards: GuardConfig | None = None,
        shape: tuple[int, int] | None = None,
    ) -> list[list[Take]]:
        """Takes of each prompt, in order.

        Args:
            prompts: ids up to START and the prompt's codes, as `Vocabulary.prompt` gives them.
            candidates: how many takes of each prompt, or their numbers: so many count from 0.
            min_codes, max_codes: bounds for each prompt; END is not drawn before `min_codes` (at
                least 1), and a take that does not end within `max_codes` is cut there.
            keys: a number for each prompt, on which its randomness hangs; default: its place.
            retries: how often a take that `failed` is drawn again.
            guards: whose loops and silences stop a take at once; None: they do not.
            shape: rows and columns of the slots; default: `shape` of the candidates.
        """
        keys = range(len(prompts)) if keys is None else keys
        if isinstance(candidates, int):
            candidates = [range(candidates)] * len(prompts)
        if not any(map(len, candidates)):
            return [[] for _ in prompts]
        rows, columns = shape or self.shape([*map(len, candidates)])
        call = dict(min_codes=min_codes, max_codes=max_codes, seed=seed, keys=keys)
        call |= dict(retries=retries, failed=failed, guards=guards)
        lanes, part = self.lanes(rows, columns)
        if lanes == 1:
            return self._draw(prompts, candidates, part, **call)
        longest, copies = max(map(len, prompts)), 1 if self.config.guidance == 1 else 2
        check_memory(self.lm, rows * copies, columns, longest, max(max_codes), None)
        # In turn, as many of a prompt as a row has columns: each prompt is in few lanes.
        turns, block = itertools.cycle(range(lanes)), part[1]
        blocks = [
            (i, next(turns), numbers[first : first + block])
            for i, numbers in enumerate(candidates)
            for first in range(0, len(numbers), block)
        ]
        used = min(lanes, len(blocks))
        own: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(used)]
        for i, lane, numbers in blocks:
            own[lane][i] += numbers
        with ThreadPoolExecutor(used) as pool:
            drawn = list(pool.map(lambda one: self._draw(prompts, one, part, **call), own))
        takes: list[list[Take]] = [[] for _ in prompts]
        left = [[iter(found) for found in lane] for lane in drawn]
        for i, lane, numbers in blocks:
            takes[i] += itertools.islice(left[lane][i], len(numbers))
        return takes

    def lanes(self, rows: int, columns: int) -> tuple[int, tuple[int, int]]:
        """How many threads draw so many slots side by side, and rows and columns of each.

        A candidate's last bits hang on it: each thread runs a program of its own slots' shape.
        """
        slots = rows * columns * (1 if self.config.guidance == 1 else 2)
        most = min(self.cores, slots // LANE)
        for lanes in range(most, 1, -1):
            if rows % lanes == 0:
                return lanes, (rows // lanes, columns)
            if columns % lanes == 0:
                return lanes, (rows, columns // lanes)
        return 1, (rows, columns)

    def _draw(
        self,
        prompts: Sequence[np.ndarray],
        candidates: Sequence[Sequence[int]],
        shape: tuple[int, int],
        *,
        min_codes: Sequence[int],
        max_codes: Sequence[int],
        seed: int,
        keys: Sequence[int],
        retries: int,
        failed: Callable[[Take], bool],
        guards: GuardConfig | None,
    ) -> list[list[Take]]:
        """As a call, through one session of rows and columns."""
        rows, columns = shape
        longest = max(map(len, prompts))
        session = Session(self, rows, columns, longest=longest, most=max(max_codes), guards=guards)
        # The longest first: what is left for the end is short.
        order = sorted(range(len(prompts)), key=lambda i: -max_codes[i])
        queues = {i: deque((n, 0) for n in range(len(candidates[i]))) for i in order}
        takes: dict[tuple[int, int], Take] = {}
        held: list[int | None] = [None] * rows
        busy: dict[tuple[int, int], tuple[int, int, int]] = {}

        def next_prompt() -> int | None:
            """One that no row holds, or else one with more to do than its rows can."""
            left = [i for i in order if queues[i]]
            return next((i for i in left if i not in held), left[0] if left else None)

        while True:
            installed, starts = {}, []
            for row in range(rows):
                free = [c for c in range(columns) if (row, c) not in busy]
                if len(free) == columns and not (held[row] is not None and queues[held[row]]):
                    held[row] = next_prompt()
                    if held[row] is not None:
                        installed[row] = prompts[held[row]]
                i = held[row]
                for column in free:
                    if i is None or not queues[i]:
                        break
                    n, attempt = queues[i].popleft()
                    busy[row, column] = i, n, attempt
                    number = candidates[i][n] + attempt * REDRAWN
                    bounds = min_codes[i], max_codes[i]
                    starts.append(Start(row, column, seed, keys[i], number, *bounds))
            if not busy:
                break
            if installed:
                session.install(installed)
            if starts:
                session.begin(starts)
            waiting = any(queues.values())
            wanted = [
                ANY if i is not None and queues[i] else WHOLE if waiting else IGNORE for i in held
            ]
            most = columns * sum(one != IGNORE for one in wanted)
            session.decode(wanted, max(1, min(rows * columns // EARLY, most)))
            ended = [place for place in busy if session.seen.ending[place] != RUNNING]
            for place, take in zip(ended, session.takes(ended), strict=True):
                i, n, attempt = busy.pop(place)
                takes[i, n] = take.instead_of(takes[i, n]) if attempt else take
                if attempt < retries and failed(take):
                    queues[i].append((n, attempt + 1))
        return [[takes[i, n] for n in range(len(own))] for i, own in enumerate(candidates)]
