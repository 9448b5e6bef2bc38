"""Which plan is the fastest, and what would make one fit: plans tried by compiling.

Compiling a pod's step takes a minute or more, so what cannot fit or cannot be faster is cut before,
by bounds worked out by hand. They bound from below and are no estimates.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
from jax.sharding import Mesh

from llasa_jax.config import DecoderRun, MeshConfig
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import Topology, topology
from llasa_jax.parallel.chips import Chip
from llasa_jax.parallel.flops import TRAIN, decoder_flops
from llasa_jax.recipes.plan_step import compile_step, language_program, pod_mesh
from llasa_jax.training.step import abstract_state

# Of `lm.model.REMAT`, from the fastest to the leanest. "offload" is not among them: nothing here
# estimates what goes to the host and back.
POLICIES = ("none", "dots", "attention", "full")
PATIENCE = 4
BYTES = {"bfloat16": 2, "float32": 4}


def remedies(run: DecoderRun, pod: Topology) -> list[dict]:
    """What would make a step fit that does not: leaner remat, more parts of the batch, more chips.

    Each change goes on from the one before it. It is refused by `least_bytes` ("computed") or,
    where they would fit, judged by compiling it ("compiled"); the first that fits is the last.

    Returns:
        `change`, in words of the command; `fits`; `peak` bytes of a device; `how`.
    """
    found = []
    for change, one, where in _changes(run, pod):
        peak, how, fits = least_bytes(one, Layout.of(one, where)), "computed", False
        if peak <= hbm(where):
            made = compile_step(one, where)
            peak, how, fits = made["bytes"]["peak"], "compiled", made["fits"]
        found.append({"change": change, "fits": fits, "peak": peak, "how": how})
        if fits:
            break
    return found


def _changes(run: DecoderRun, pod: Topology) -> Iterator[tuple[str, DecoderRun, Topology]]:
    leaner = POLICIES[POLICIES.index(run.lm.remat) + 1 :] if run.lm.remat in POLICIES else ()
    change = ""
    for policy in leaner:
        run, change = replace(run, lm=replace(run.lm, remat=policy)), f"--set lm.remat={policy} "
        yield change.strip(), run, pod
    for parts in _parts(run, pod):
        if parts > run.train.accumulate:
            run = replace(run, train=replace(run.train, accumulate=parts))
            yield f"{change}--set train.accumulate={parts}", run, pod
    for _ in range(3):
        try:
            pod = topology(_doubled(pod.name), pod.slices)
            parts = _parts(run, pod)
        except UserError:  # no such slice, or a mesh of a fixed size
            return
        if not parts:
            return
        parts = min(run.train.accumulate, parts[-1])
        run = replace(run, train=replace(run.train, accumulate=parts))
        yield f"--topology {pod.name} {change}--set train.accumulate={parts}", run, pod


def _doubled(name: str) -> str:
    """The grid of twice as many chips: its smallest side doubled."""
    kind, _, grid = name.partition(":")
    least, *others = sorted(int(size) for size in grid.split("x"))
    return f"{kind}:" + "x".join(str(size) for size in sorted([2 * least, *others]))


def search(run: DecoderRun, pod: Topology) -> dict:
    """The fastest step that fits: meshes, remat policies and rows at once are tried by compiling.

    The step's tokens stay: rows at once follow from `train.accumulate`. Time is the most of the
    estimated range, nothing overlapping, so that every byte and FLOP counts. Candidates come in the
    order of `least_seconds`, until the next one's are no less than the best one's time, or so many
    in a row (`PATIENCE`) are no better. One whose `least_bytes` exceed the memory is not compiled,
    nor one that holds more than one that failed.

    Returns:
        What `compile_step` says of the best, its `settings`, and `search`: the number of
        `candidates` and what was `compiled`, each with `settings`, `fits`, `peak` and `step_s`.

    Raises:
        UserError: if no mesh divides the configuration, or nothing fits.
    """
    bounded = [
        (least_seconds(one, layout, pod.chip), least_bytes(one, layout), one)
        for one, layout in candidates(run, pod)
    ]
    bounded.sort(key=lambda bound: bound[:2])
    log(f"{len(bounded)} candidates for {pod.slices} x {pod.name}")
    compiled: list[dict] = []
    failed: list[DecoderRun] = []
    best: dict | None = None
    since = 0
    for seconds, size, one in bounded:
        if best and (since == PATIENCE or seconds >= best["estimated"]["step_s"][1]):
            break
        if size > hbm(pod) or any(_holds_more(one, other) for other in failed):
            continue
        made = compile_step(one, pod) | {"settings": changed(one)}
        step = made["estimated"]["step_s"] if made["estimated"] else None
        shown = {"fits": made["fits"], "peak": made["bytes"]["peak"], "step_s": step}
        compiled.append({"settings": made["settings"]} | shown)
        verdict = f"{step[0]:.3f} to {step[1]:.3f} s" if step else "does not fit"
        log(f"{made['settings']}: {verdict}, {shown['peak'] / 1e9:.2f} GB")
        since += 1
        if not made["fits"]:
            failed.append(one)
        elif best is None or step[1] < best["estimated"]["step_s"][1]:
            best, since = made, 0
    if best is None:
        raise UserError(
            f"plan: none of {len(bounded)} candidates fits {pod.slices} x {pod.name} "
            f"({len(compiled)} compiled, the others' least bytes are too many)"
        )
    return best | {"search": {"candidates": len(bounded), "compiled": compiled}}


def candidates(run: DecoderRun, pod: Topology) -> Iterator[tuple[DecoderRun, "Layout"]]:
    """The run on every mesh that divides it (powers of two of slices and tensor), with every remat
    policy, and in every number of parts (powers of two) that leaves each device whole rows."""
    inside = len(pod.devices) // pod.slices
    for tensor in _powers(math.gcd(run.lm.kv_heads, inside)):
        for data in _powers(inside // tensor):
            mesh = MeshConfig(pod.slices * data, inside // tensor // data, tensor)
            one = replace(run, train=replace(run.train, mesh=mesh, accumulate=1))
            try:
                layout = Layout.of(one, pod)
            except UserError:
                continue
            for parts in _parts(one, pod):
                train = replace(one.train, accumulate=parts)
                for policy in POLICIES:
                    yield replace(one, train=train, lm=replace(one.lm, remat=policy)), layout


def changed(run: DecoderRun) -> str:
    """A candidate in words of the command."""
    mesh, train = run.train.mesh, run.train
    sizes = f"data={mesh.data}", f"fsdp={mesh.fsdp}", f"tensor={mesh.tensor}"
    words = [f"train.mesh.{size}" for size in sizes]
    words += [f"lm.remat={run.lm.remat}", f"train.accumulate={train.accumulate}"]
    return " ".join(f"--set {word}" for word in words)


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if most % 2**n == 0]


def _parts(run: DecoderRun, pod: Topology) -> list[int]:
    """Numbers of parts, powers of two, that leave each device whole rows."""
    mesh = pod_mesh(run.train.mesh, pod)
    rows, left = divmod(run.train.batch, mesh.shape["data"] * mesh.shape["fsdp"])
    return [] if left or not rows else _powers(rows)


def _holds_more(one: DecoderRun, other: DecoderRun) -> bool:
    """Whether `one` needs no less memory than `other`: it recomputes and divides no more."""
    rank = POLICIES.index
    return (
        one.train.mesh == other.train.mesh
        and rank(one.lm.remat) <= rank(other.lm.remat)
        and one.train.accumulate <= other.train.accumulate
    )


def hbm(pod: Topology) -> int:
    """Bytes of memory that a device has."""
    return pod.chip.hbm // pod.chip.devices


@dataclass(frozen=True)
class Layout:
    """A run's state on a mesh: bytes of a device's share of it and of its parameters' share, and
    how many weights the layers have in all."""

    mesh: Mesh
    state: int
    parameters: int
    weights: int

    @classmethod
    def of(cls, run: DecoderRun, pod: Topology) -> "Layout":
        """Raises UserError if the mesh does not divide the run."""
        mesh = pod_mesh(run.train.mesh, pod)
        state, _ = abstract_state(language_program(run).objective, run.train, mesh)
        params = state["model"]["params"]
        weights = sum(leaf.size for leaf in jax.tree.leaves(params["layers"]))
        return cls(mesh, _shards(state), _shards(params), weights)


def _shards(tree: dict) -> int:
    """Bytes that a device holds of these arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def least_bytes(run: DecoderRun, layout: Layout) -> int:
    """Memory of a device that a step cannot do without.

    The state; a gradient of every parameter in the products' dtype, and the float32 sum of those of
    several parts; what the remat policy keeps of each token in a layer: what the layer is given,
    and of "attention" its inputs and outputs, of "dots" and "none" the results of all products.
    """
    mesh, lm = layout.mesh, run.lm
    size = BYTES[lm.compute_dtype]
    gradients = layout.parameters * (size / 4 + (run.train.accumulate > 1))
    rows = run.train.batch / (mesh.shape["data"] * mesh.shape["fsdp"]) / run.train.accumulate
    tokens = rows * run.row / mesh.shape["sequence"]
    kept, split = lm.dim, 0
    if lm.remat in ("attention", "dots", "none"):
        split = 2 * lm.head_dim * (lm.heads + lm.kv_heads)
    if lm.remat in ("dots", "none"):
        kept, split = 2 * lm.dim, split - lm.head_dim * lm.heads + 2 * lm.ffn
    kept += split / mesh.shape["tensor"]
    return round(layout.state + gradients + tokens * lm.layers * kept * size)


def least_seconds(run: DecoderRun, layout: Layout, chip: Chip) -> float:
    """Time that a step cannot do without at the chips' ceilings, nothing overlapping.

    Products, with the layers' forward pass once more under "full" (and all of it but the attention
    under "attention"). Memory: the state and the weights, and what products take and give. Links:
    each part gathers the layers' weights for both passes and scatters their gradients, unless each
    device has them whole; devices along tensor add up two results a layer, there and back.
    """
    mesh, lm, parts = layout.mesh, run.lm, run.train.accumulate
    size, tensor, fsdp = BYTES[lm.compute_dtype], mesh.shape["tensor"], mesh.shape["fsdp"]
    again = lm.remat not in ("none", "dots")
    forward = partial(decoder_flops, lm, run.train.batch * run.row)
    length = run.row if lm.remat == "full" else 0
    flops = TRAIN * forward(run.row) + again * forward(length, head=False)
    compute = flops / mesh.size / chip.flops
    weights = layout.weights / tensor * size * parts
    tokens = run.train.batch * run.row / (mesh.size / tensor) * lm.layers * size
    inside = 2 * lm.head_dim * (lm.heads + lm.kv_heads) + 3 * lm.ffn
    passed = tokens * (4 * lm.dim + inside / tensor) * (TRAIN + again)
    memory = (2 * layout.state + TRAIN * weights + passed) / chip.hbm_rate
    sent = weights * (2 + again) * (fsdp - 1) / fsdp
    sent += tokens * lm.dim * (4 + again) * 2 * (tensor - 1) / tensor
    return chip.devices * (compute + memory + sent * chip.axes / chip.ici_rate)
