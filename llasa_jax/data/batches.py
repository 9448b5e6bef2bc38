"""Batches of waves for training: element i is the batch of step i, whatever came before.

Every dataset here is a `grain.MapDataset` that is a pure function of (seed, step), so that a
resumed run needs no state. Grain's own per-element shuffle costs about 2 ms an item in Python;
here a step draws all its items at once.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from llasa_jax.audio.io import resample
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise
from llasa_jax.verifiers.characters import encode, readable

Batch = dict[str, np.ndarray]

MAX_CHARACTERS_PER_SECOND = 30
BUCKET_SECONDS = 0.32  # padded lengths are multiples of this


def by_step(build: Callable[[int], Batch]) -> grain.MapDataset:
    """The endless dataset whose element i is `build(i)`."""
    return grain.MapDataset.range(sys.maxsize).map(build)


def crops(
    store: WaveStore,
    indices: Sequence[int],
    seconds: float,
    batch: int,
    seed: int,
    shares: Mapping[str, float] | None = None,
    language_power: float = 0.0,
    speed: float = 1.0,
    *,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """Random crops: {"wave": float32 [B, samples]}; where a wave ends, another follows.

    Within a kind and language, every second of speech is as likely as any other.

    Args:
        indices: the waves of `store` to draw from.
        seconds: length of a crop.
        shares: share of the crops for each kind ("recorded", "synthetic"); kinds that `indices`
            lacks give their share to the others. None draws by seconds alone.
        language_power: within a kind, a language is drawn in proportion to its seconds to this
            power: 0 draws all languages alike, 1 every second.
        speed: each crop is played from 1 / speed to speed times as fast, by resampling: other
            pitches and formants, as if there were more voices.
        process, processes: this process reads rows [process, process + 1) * batch / processes of
            each batch, which is the same however many there are.

    Raises:
        UserError: if nothing is left to draw from, or the batch does not divide by the processes.
    """
    size = round(seconds * store.rate)
    mine = slice(*(np.array([process, process + 1]) * share_of(batch, processes)))
    weight = np.array([store.samples(i) for i in indices], np.float64)
    if shares is not None:
        chosen = [store.utterances[i] for i in indices]
        group = np.array([f"{one.kind} {one.language}" for one in chosen])
        kind_of = {f"{one.kind} {one.language}": one.kind for one in chosen}
        power = {name: weight[group == name].sum() ** language_power for name in kind_of}
        total = Counter[str]()
        for name, kind in kind_of.items():
            total[kind] += power[name]
        each = {n: shares.get(k, 0.0) * power[n] / total[k] for n, k in kind_of.items()}
        weight = _share_out(weight, group, each)
    choose = _chooser(weight)

    def draw(rng: np.random.Generator) -> tuple[int, list[tuple[int, int, int]]]:
        """A rate, and the pieces that make a crop at it: wave, start and end."""
        rate = round(store.rate * speed ** rng.uniform(-1, 1))
        missing, pieces = -(-size * rate // store.rate), []
        while missing > 0:
            index = indices[choose(rng, 1)[0]]
            start = rng.integers(max(store.samples(index) - missing, 0) + 1)
            stop = min(start + missing, store.samples(index))
            pieces.append((index, start, stop))
            missing -= stop - start
        return rate, pieces

    def read(rate: int, pieces: list[tuple[int, int, int]]) -> np.ndarray:
        source = np.concatenate([store[index][1][start:stop] for index, start, stop in pieces])
        wave = resample(source, rate, store.rate)[:size]
        return np.pad(wave, (0, size - len(wave)))  # the resampler may leave one sample out

    def build(step: int) -> Batch:
        rng = np.random.default_rng((seed, step))
        drawn = [draw(rng) for _ in range(batch)]
        return {"wave": np.stack([read(*one) for one in drawn[mine]])}

    return by_step(build)


def share_of(batch: int, processes: int) -> int:
    """Rows of a batch that each process has.

    Raises:
        UserError: if the batch does not divide by the processes.
    """
    if batch < 1 or batch % processes:
        raise UserError(f"batch of {batch} rows does not divide by {processes} processes")
    return batch // processes


def speaker_crops(
    store: WaveStore,
    indices: Sequence[int],
    seconds: float,
    batch: int,
    seed: int,
    speakers: Sequence[str],
) -> grain.MapDataset:
    """Random crops with their voice, each voice as often as any other.

    {"wave": float32 [B, samples], "length": int32 [B], "speaker": int32 [B]}, the last an index
    into `speakers`.

    Raises:
        UserError: if nothing is left to draw from.
    """
    size = round(seconds * store.rate)
    names = np.array([store.utterances[i].speaker for i in indices])
    # A wave shorter than a crop counts as one.
    weight = np.array([max(store.samples(i), size) for i in indices], np.float64)
    choose = _chooser(_share_out(weight, names, dict.fromkeys(speakers, 1.0)))
    number = np.array([speakers.index(name) for name in names], np.int32)

    def build(step: int) -> Batch:
        rng = np.random.default_rng((seed, step))
        chosen = choose(rng, batch)
        wave, length = np.zeros((batch, size), np.float32), np.zeros(batch, np.int32)
        for row, position in enumerate(chosen):
            source = store[indices[position]][1]
            start = rng.integers(max(len(source) - size, 0) + 1)
            piece = source[start : start + size]
            wave[row, : len(piece)], length[row] = piece, len(piece)
        return {"wave": wave, "length": length, "speaker": number[chosen]}

    return by_step(build)


def _share_out(weight: np.ndarray, group: np.ndarray, shares: Mapping[str, float]) -> np.ndarray:
    """Weights scaled so that those of each group sum to its share."""
    scaled = np.zeros_like(weight)
    for name, share in shares.items():
        member = group == name
        scaled[member] = share * weight[member] / max(weight[member].sum(), 1.0)
    return scaled


def _chooser(weight: np.ndarray) -> Callable[[np.random.Generator, int], np.ndarray]:
    """(generator, count) -> places in `weight` int [count], drawn in proportion to it."""
    if not weight.sum() > 0:
        raise UserError("no recording to draw crops from; check the corpus and the shares of kinds")
    bounds = np.cumsum(weight) / weight.sum()

    def choose(rng: np.random.Generator, count: int) -> np.ndarray:
        places = np.searchsorted(bounds, rng.random(count), side="right")
        return np.minimum(places, len(weight) - 1)  # the last bound may round below 1

    return choose


def transcribable(
    store: WaveStore, indices: Sequence[int], alphabet: str, max_seconds: float
) -> list[int]:
    """Those of `indices` that a recogniser can learn from: not too long, all that is spoken is
    letters of the alphabet, and not more of them than a person can say in the time."""
    kept = []
    for index in indices:
        text, seconds = store.utterances[index].text, store.samples(index) / store.rate
        normalised = normalise(text)
        spoken = len(normalised) <= MAX_CHARACTERS_PER_SECOND * seconds
        if seconds <= max_seconds and spoken and readable(text, normalised, alphabet):
            kept.append(index)
    return kept


def transcribed(
    store: WaveStore,
    indices: Sequence[int],
    batch: int,
    max_seconds: float,
    alphabet: str,
    seed: int,
    buckets: int = 2,
    speed: float = 1.0,
) -> grain.MapDataset:
    """Waves with their characters, each epoch shuffled anew.

    {"wave": float32 [B, samples], "length": int32 [B], "labels": int32 [B, L]}: label 0 is
    padding. A batch holds waves of one bucket of lengths. Each bucket comes at once and then
    evenly, so that every program is compiled in the first steps and any few cost as any others.

    Args:
        indices: the waves of `store`; those that are not `transcribable` are left out.
        buckets: at most this many different shapes; their lengths are chosen for least padding.
        speed: as of `crops`, of whole waves.

    Raises:
        UserError: if nothing is left.
    """
    usable = transcribable(store, indices, alphabet, max_seconds)
    if not usable:
        raise UserError("no recording with readable text to train a recogniser on; add some")
    longest = [math.ceil(speed * store.samples(i)) for i in usable]  # as played
    samples = np.array(longest)
    labels = [encode(normalise(store.utterances[i].text), alphabet) for i in usable]
    sizes = bucket_sizes(samples, buckets, round(BUCKET_SECONDS * store.rate))
    of = np.searchsorted(sizes, samples)
    members = [np.flatnonzero(of == b) for b in range(len(sizes))]
    widths = [-(-max(len(labels[i]) for i in m) // 16) * 16 for m in members]
    counts = [-(-len(m) // batch) for m in members]
    plan = sorted((k / n, b, k) for b, n in enumerate(counts) for k in range(n))

    def build(step: int) -> Batch:
        epoch, place = divmod(step, len(plan))
        _, bucket, k = plan[place]
        order = np.random.default_rng((seed, epoch, bucket)).permutation(members[bucket])
        chosen = np.resize(order, counts[bucket] * batch)[k * batch : (k + 1) * batch]
        rates = store.rate * speed ** np.random.default_rng((seed, step)).uniform(-1, 1, batch)
        wave = np.zeros((batch, sizes[bucket]), np.float32)
        length = np.zeros(batch, np.int32)
        label = np.zeros((batch, widths[bucket]), np.int32)
        for row, i in enumerate(chosen):
            played = resample(store[usable[i]][1], round(rates[row]), store.rate)[: sizes[bucket]]
            wave[row, : len(played)], length[row] = played, len(played)
            label[row, : len(labels[i])] = labels[i]
        return {"wave": wave, "length": length, "labels": label}

    return by_step(build)


def bucket_sizes(samples: np.ndarray, count: int, unit: int) -> np.ndarray:
    """At most `count` padded sizes, multiples of `unit`, that waste the least over `samples`."""
    rounded, times = np.unique(-(-samples // unit) * unit, return_counts=True)
    # cost[j]: the best total of padded samples for the first j + 1 sizes; chosen[j]: its bounds.
    total = np.cumsum(times)
    cost, chosen = total * rounded, [[size] for size in rounded]
    for _ in range(count - 1):
        better, bounds = cost.copy(), list(chosen)
        for j in range(1, len(rounded)):
            options = cost[:j] + (total[j] - total[:j]) * rounded[j]
            if options.min() < better[j]:
                better[j] = options.min()
                bounds[j] = [*chosen[int(options.argmin())], rounded[j]]
        cost, chosen = better, bounds
    return np.array(chosen[-1])
