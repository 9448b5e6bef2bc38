"""Prints (--dry-run) or runs the commands and manifests of one way to start a training run.

A way is a template of a shell script in `ways/`; what is printed is what would run. Needs jinja2
and nothing else of the package: it runs where a pod is ordered, not where a model is trained.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NAME = re.compile(r"[a-z]([-a-z0-9]{0,26}[a-z0-9])?")  # gcluster takes 28 letters, others more
PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._:/@-]*")  # nothing that a shell or YAML would read
GPUS = "gpu"


@dataclass(frozen=True)
class Chip:
    """What a TPU generation is called: by GKE (label, machine), by the TPU API and xpk (type).

    `cores` of a chip count in the type's number; `runtime` is the TPU VM's image, None where the
    TPU API does not have the chip.
    """

    label: str
    machine: str
    type: str
    cores: int
    runtime: str | None


# docs.cloud.google.com: kubernetes-engine/docs/concepts/plan-tpus, tpu/docs/runtimes (2026).
CHIPS = {
    "v4": Chip("tpu-v4-podslice", "ct4p-hightpu", "v4", 2, "tpu-ubuntu2204-base"),
    "v5e": Chip("tpu-v5-lite-podslice", "ct5lp-hightpu", "v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": Chip("tpu-v5p-slice", "ct5p-hightpu", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Chip("tpu-v6e-slice", "ct6e-standard", "v6e", 1, "v2-alpha-tpuv6e"),
    "tpu7x": Chip("tpu7x", "tpu7x-standard", "tpu7x", 2, None),
}


class Refused(Exception):
    """What, where, what to do."""


@dataclass(frozen=True)
class Slice:
    """A slice of a pod, as `llasa plan` names it: "v6e:4x4"; or nodes x GPUs, "gpu:4x8"."""

    kind: str
    grid: str

    @classmethod
    def read(cls, text: str) -> "Slice":
        kind, _, grid = text.partition(":")
        sides = {"v5e": 2, "v6e": 2, GPUS: 2}.get(kind, 3)
        known = ", ".join([*CHIPS, GPUS])
        if kind not in (*CHIPS, GPUS) or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", grid):
            raise Refused(f"--topology {text}: expected a chip and its grid, v6e:4x4; of {known}")
        if grid.count("x") != sides - 1:
            raise Refused(f"--topology {text}: a grid of {kind} has {sides} sides")
        found = cls(kind, grid)
        if kind != GPUS and found.chips > 4 and found.chips % 4:
            raise Refused(f"--topology {text}: {found.chips} chips do not fill hosts of 4")
        return found

    @property
    def chips(self) -> int:
        return math.prod(int(side) for side in self.grid.split("x"))

    @property
    def hosts(self) -> int:
        return int(self.grid.split("x")[0]) if self.kind == GPUS else math.ceil(self.chips / 4)

    @property
    def on_host(self) -> int:
        return self.chips // self.hosts

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def machine(self) -> str:
        return f"{self.chip.machine}-{self.on_host}t"

    @property
    def type(self) -> str:
        """As "v6e-16", "v5p-32" (cores), "tpu7x-4x4x4"."""
        size = self.grid if self.kind == "tpu7x" else self.chips * self.chip.cores
        return f"{self.chip.type}-{size}"


def environment(name: str) -> str:
    """A value that the user sets; quotes and blanks are refused, so it may stand anywhere."""
    value = os.environ.get(name, "")
    if not PLAIN.fullmatch(value):
        raise Refused(f"{name}: {value or 'is not set'}; export {name}=... (docs/launch.md)")
    return value


def flags(kind: str) -> str:
    """LIBTPU_INIT_ARGS of a chip, from `flags/`."""
    lines = (HERE / "flags" / f"{kind}.env").read_text().splitlines()
    return " ".join(word for line in lines for word in line.partition("#")[0].split())


def data_of(config: str) -> str:
    """What a configuration is trained with: "model" (a language model) or "corpus" (a codec)."""
    return "corpus" if kind_of(config) == "CodecRun" else "model"


def kind_of(config: str) -> str:
    """What a configuration is of; a SweepPlan is of several language models."""
    path = HERE.parent / "configs" / f"{config}.py"
    kinds = r"-> (DecoderRun|CodecRun|SweepPlan):"
    found = re.search(kinds, path.read_text()) if path.is_file() else None
    if found is None:
        raise Refused(f"{config}: no language model, ladder or codec of this name in configs/")
    return found[1]


def command(options: argparse.Namespace, shared: str, store: str) -> list[str]:
    """The training command of every process.

    Args:
        shared: the folder with the model, the corpus and the runs, as a process sees it.
        store: where tokens and checkpoints are: the same folder, or the bucket's address.
    """
    run, prefix = f"runs/{options.name}", ""
    ladder = kind_of(options.config) == "SweepPlan"
    if ladder != bool(options.only):
        raise Refused(f"{options.config}: --only names a run of a ladder's plan, and of that alone")
    if data_of(options.config) == "model":
        words = ["llasa", "train", options.config, "--tokens", f"{store}/tokens"]
        if ladder:  # its runs share a folder, where their table is
            run, prefix = f"runs/{options.config}", "run."
            words[1:3] = ["sweep", options.config, "--only", options.only]
        words += ["--model", f"{shared}/model"]
    else:
        words = ["llasa", "codec", "train", options.config, "--store", f"{shared}/corpus"]
    words += ["--out", f"{shared}/{run}"]
    settings = [f"train.mesh.data={options.slices}", "train.mesh.fsdp=-1"]
    if store != shared:
        settings.insert(0, f"train.checkpoints={store}/{run}/checkpoints")
    settings = [prefix + setting for setting in settings] + options.set
    if any(not setting.isprintable() for setting in settings):
        raise Refused("--set: a setting is one line")
    return words + [word for setting in settings for word in ("--set", setting)]


def render(options: argparse.Namespace) -> str:
    """The script of a way and a verb.

    Raises:
        Refused: something is unknown, missing, or not to be had that way.
    """
    try:
        import jinja2
    except ImportError as error:
        raise Refused("launch: needs jinja2; python3 -m pip install jinja2") from error
    if options.name and not NAME.fullmatch(options.name):
        raise Refused(f"{options.name}: a name is a-z, 0-9 and -, at most 28, a letter first")
    if options.verb != "list" and not options.name:
        raise Refused(f"{options.verb}: which run? give its NAME")
    where = None
    if options.verb == "run":
        if not options.config or not options.topology:
            raise Refused("run: expected NAME CONFIG --topology v6e:4x4")
        where = Slice.read(options.topology)
        if (where.kind == GPUS) != (options.way == "slurm"):
            raise Refused(f"{options.way}: does not have {where.kind} (docs/launch.md)")
        if options.slices < 1:
            raise Refused(f"--slices: {options.slices} is not positive")

    def refuse(reason: str) -> None:
        raise Refused(f"{options.way}: {reason}")

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "ways"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"words": shlex.join, "quoted": shlex.quote, "json": json.dumps}
    return templates.get_template(f"{options.way}.sh.j2").render(
        vars(options),
        root=HERE.parent,
        slice=where,
        env=environment,
        refuse=refuse,
        command=lambda shared, store: command(options, shared, store),
        data=data_of(options.config) if where else "",
        libtpu=flags(where.kind) if options.flags and where and where.kind != GPUS else "",
    )


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch/pod.sh", description=__doc__.splitlines()[0])
    ways = sorted(path.name.removesuffix(".sh.j2") for path in (HERE / "ways").glob("*.sh.j2"))
    parser.add_argument("way", choices=ways)
    parser.add_argument("verb", choices=["run", "list", "logs", "delete"])
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("config", nargs="?", default="")
    parser.add_argument("--topology", help="chip and grid of a slice, v6e:4x4; GPUs: gpu:4x8")
    parser.add_argument(
        "--only", default="", metavar="RUN", help="of a ladder's plan (llasa sweep)"
    )
    parser.add_argument("--slices", type=int, default=1, help="so many of that grid (1)")
    parser.add_argument("--spot", action="store_true", help="machines that may be taken away")
    parser.add_argument("--flags", action="store_true", help="the compiler flags of launch/flags")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="print, run nothing")
    parser.error = lambda message: sys.exit(_told(message))
    return parser.parse_args(words)


def _told(message: str) -> int:
    print(f"llasa: error: {message}", file=sys.stderr)
    return 2


def main(words: list[str]) -> int:
    options = parse(words)
    try:
        script = render(options)
    except Refused as refused:
        return _told(str(refused))
    if options.dry_run:
        print(script, end="")
        return 0
    sys.stdout.flush()
    os.execvp("bash", ["bash", "-euo", "pipefail", "-c", script])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
