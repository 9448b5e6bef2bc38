"""`llasa plan`: a training step compiled for TPUs that are not there.

What the compiler says (bytes, collectives, whether it fits) holds exactly for its version; what
follows from the chips' ceilings (seconds, MFU, chip-hours) is an estimate. Nothing runs.
"""

from collections.abc import Sequence

from llasa_jax.config import CodecRun, DecoderRun, load_config
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import toolchain, topology
from llasa_jax.recipes.plan_decode import compile_decode, decode_table
from llasa_jax.recipes.plan_encode import compile_encode, encode_table
from llasa_jax.recipes.plan_search import remedies, search
from llasa_jax.recipes.plan_step import PROGRAMS, compile_step, sized, table_head


def plan(
    config: str,
    program: str,
    where: str,
    *,
    slices: int = 1,
    batch_tokens: int | None = None,
    assignments: Sequence[str] = (),
    best: bool = False,
) -> dict:
    """Compiles the training step of a named configuration for the topology `where`.

    The mesh is the configuration's `train.mesh`; of one for a single device, slices lie along data
    and the devices of a slice along fsdp.

    Args:
        program: "codec" or "train" (the language model); or no training step: "encode", the codec's
            encoder (`plan_encode.compile_encode`); "search", the decoding loop of the paper's beam
            (`plan_decode.compile_decode`).
        where: as "v5p:4x4x4".
        slices: of that shape, joined by the data-center network.
        batch_tokens: of a step, on all chips together (a codec's codes); default: configured.
        assignments: `--set` overrides.
        best: search for the fastest mesh, remat policy and rows at once instead of taking the
            configured ones (`plan_search.search`); for the language model.

    Returns:
        JSON-able, the keys of `compile_step`, and of a language model that does not fit `remedies`
        (`plan_search.remedies`).

    Raises:
        UserError: if the topology is unknown, libtpu is missing, the configuration does not divide
            over the mesh, or the compiler refuses the program.
    """
    others = {"encode": CodecRun, "search": DecoderRun}
    kind = others[program] if program in others else PROGRAMS[program][0]
    run = load_config(config, kind, list(assignments))
    run = run if program in others else sized(run, batch_tokens)
    pod = topology(where, slices)
    words = ["llasa plan", config, "--program", program, "--topology", where]
    words += ["--slices", str(slices)] if slices > 1 else []
    words += ["--batch-tokens", str(batch_tokens)] if batch_tokens else []
    words += [f"--set {assignment}" for assignment in assignments] + ["--search"] * best
    found = {"command": " ".join(words), "toolchain": toolchain()}
    if program == "encode":
        return found | compile_encode(run, pod, batch_tokens)
    if program == "search":
        return found | compile_decode(run, pod)
    if best:
        if not isinstance(run, DecoderRun):
            raise UserError("--search: for --program train")
        return found | search(run, pod)
    found |= compile_step(run, pod)
    if not found["fits"] and isinstance(run, DecoderRun):
        found["remedies"] = remedies(run, pod)
    return found


def table(found: dict) -> str:
    """The plan as text."""
    if "utterance_s" in found:
        return decode_table(found)
    if "mesh" not in found and "search" not in found:
        return encode_table(found)
    units = 1e9
    lines = table_head(found, "step")
    lines["model FLOPs"] = f"{found['model_flops']:.3e}"
    for kind, of in (found["collectives"] or {}).items():
        lines[kind] = (
            f"{of['count']}, {of['bytes'] / units:.3f} GB, {of['in_loop']} in a loop, compiled"
        )
    if found["estimated"]:
        heads = found["head_collectives_in_loops"]
        lines["head in loops"] = f"{heads} collectives, compiled"
        step, mfu = found["estimated"]["step_s"], found["estimated"]["mfu"]
        lines["time"] = f"{step[0]:.3f} to {step[1]:.3f} s, estimated"
        lines["MFU"] = f"{100 * mfu[0]:.1f} to {100 * mfu[1]:.1f} %, estimated"
        least, most = found["chip_hours"]
        of = found["whole_run"]["of"]
        lines["chip-hours"] = f"{least:.3g} to {most:.3g} for {of}, estimated"
    if "search" in found:
        tried, of = len(found["search"]["compiled"]), found["search"]["candidates"]
        lines["the fastest of"] = f"{of} candidates, {tried} of them compiled"
        lines["settings"] = found["settings"]
    for one in found.get("remedies", ()):
        verdict = "would fit" if one["fits"] else "would not fit"
        lines[f"with {one['change']}"] = f"{verdict}: {one['peak'] / units:.2f} GB, {one['how']}"
    width = max(20, *(len(name) + 2 for name in lines))
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines.items())
