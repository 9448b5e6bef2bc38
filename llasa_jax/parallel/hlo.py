"""What the text of a compiled program (optimised HLO) says: its collectives and memory traffic.

Text is the one form in which a compiled program can be read with any backend and version. Only the
grammar is parsed: computations, instructions, their types and what they call.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_CROSSING = "xla_megascale_target"  # how libtpu marks a transfer between slices
# Instructions that move no data themselves: names for it, or calls whose bodies are counted.
STILL = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call call-start "
    "after-all opt-barrier partition-id replica-id iota async-start async-update recv".split()
)
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_CALLS = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation|branch_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


class Array(NamedTuple):
    """One array type, as `bf16[8,128]{1,0:T(8,128)(2,1)S(1)}`."""

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Of its elements, without padding."""
        return math.prod(self.shape) * _bits(self.dtype) // 8

    @property
    def stored(self) -> int:
        """Bytes it takes in the chip's main memory, tiles padded; 0 if it lies elsewhere (S(n))."""
        if "S(" in self.layout:
            return 0
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if not tile:
            return self.bytes
        sizes = [self.shape[int(axis)] for axis in order.split(",") if axis]  # minor first
        edges = [int(edge) for edge in reversed(tile[1].split(","))]
        padded = [-(-size // edge) * edge for size, edge in zip(sizes, edges, strict=False)]
        return math.prod(padded + sizes[len(edges) :]) * _bits(self.dtype) // 8


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    digits = re.match(r"[a-z]+(\d+)", dtype)  # bf16, s32, f8e4m3fn, c64; tokens have none
    return int(digits[1]) if digits else 0


@dataclass(frozen=True)
class Instruction:
    """`name = type opcode(operands), attributes`; a tuple's type is the list of its leaves."""

    name: str
    type: str
    opcode: str
    operands: str
    attributes: str

    @property
    def arrays(self) -> list[Array]:
        return arrays(self.type)

    @property
    def operand_names(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.operands)

    def calls(self) -> Iterator[tuple[str, str]]:
        """(how, computation) of each computation it calls."""
        for how, names in _CALLS.findall(self.attributes):
            for name in re.findall(r"[\w.\-]+", names):
                yield how, name


@dataclass(frozen=True)
class Collective:
    """One collective instruction.

    `bytes` are those of its result, `devices` the size of its groups, `times` how often a run
    executes it, `shapes` those of its operands and results. Kind "send" is what goes to another
    slice, over the data-center network.
    """

    kind: str
    bytes: int
    devices: int
    in_loop: bool
    times: int
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def sent(self) -> float:
        """Bytes a device sends in one execution, by the ring algorithm."""
        n = self.devices
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1}
        share |= {"collective-permute": 1, "send": 1}
        return self.bytes * share.get(self.kind, (n - 1) / n)

    def moves_table(self, rows: int, width: int, devices: int) -> bool:
        """Whether it moves a table [rows, width] that lies over `devices`, or a device's part.

        It does if an operand or result has as many elements as the whole table; or as many as a
        device's part, and an axis of the table's rows or of an even share of them.
        """
        shares = {rows // n for n in range(1, devices + 1) if devices % n == 0 and rows % n == 0}
        for shape in self.shapes:
            size = math.prod(shape)
            if size >= rows * width or (size >= rows * width // devices and shares & set(shape)):
                return True
        return False


@dataclass
class Module:
    """The computations of a program, and how often a run executes each."""

    computations: dict[str, list[Instruction]]
    entry: str
    times: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    looped: set[str] = field(default_factory=set)
    fused: set[str] = field(default_factory=set)

    @classmethod
    def parse(cls, text: str) -> "Module":
        """Raises ValueError if the text is no HLO module."""
        computations: dict[str, list[Instruction]] = {}
        entry, current = "", []
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                words = line.split(None, 2)
                name = re.match(r"%?([\w.\-]+)", words[words[0] == "ENTRY"])[1]
                entry = name if words[0] == "ENTRY" else entry
                current = computations.setdefault(name, [])
            elif line.startswith(" ") and " = " in line:
                current.append(_instruction(line))
        if not entry:
            raise ValueError("no HLO module: it has no ENTRY computation")
        module = cls(computations, entry)
        module._visit(entry, 1, False)
        return module

    def _visit(self, name: str, times: int, in_loop: bool) -> None:
        self.times[name] += times
        if in_loop:
            self.looped.add(name)
        for instruction in self.computations[name]:
            trips = self._trips(instruction) if instruction.opcode == "while" else 1
            for how, called in instruction.calls():
                called_alone = instruction.opcode in ("call", "call-start")
                if instruction.opcode == "fusion" or (how == "to_apply" and not called_alone):
                    self.fused.add(called)
                inside = in_loop or instruction.opcode == "while"
                self._visit(called, times * trips, inside)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop's body runs: as the compiler noted, else its bound; at least once."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return max(int(known[1]), 1)
        condition = dict(loop.calls())["condition"]
        return max([1, *self._constants(condition)])

    def _constants(self, name: str) -> Iterator[int]:
        for one in self.computations[name]:
            if one.opcode == "constant" and one.operands.isdigit() and "[]" in one.type:
                yield int(one.operands)
            for _, called in one.calls():
                yield from self._constants(called)

    def collectives(self) -> list[Collective]:
        """Every collective instruction that a run reaches; `-start` forms count, `-done` do not."""
        found = []
        for name, instructions in self.computations.items():
            if name not in self.times:
                continue
            types = {one.name: one.arrays for one in instructions}
            for one in instructions:
                kind = one.opcode.removesuffix("-start")
                if kind in COLLECTIVES or (kind == "send" and _CROSSING in one.attributes):
                    result = _result(one)
                    size = sum(array.bytes for array in result)
                    taken = (array for x in one.operand_names for array in types.get(x, ()))
                    shapes = tuple(array.shape for array in (*taken, *result))
                    devices, in_loop = _group_size(one.attributes), name in self.looped
                    times = self.times[name]
                    found.append(Collective(kind, size, devices, in_loop, times, shapes))
        return found

    def traffic(self) -> int:
        """Bytes that a run reads from and writes to the device's main memory.

        Every instruction outside of fusions reads its operands and writes its result; what lies in
        faster memory is free, and of a large array only the slice that is taken or put counts.
        """
        total = 0
        for name, instructions in self.computations.items():
            if name not in self.times or name in self.fused:
                continue
            types = {one.name: one for one in instructions}
            total += self.times[name] * sum(self._moved(one, types) for one in instructions)
        return total

    def _moved(self, one: Instruction, types: dict[str, Instruction]) -> int:
        if one.opcode in STILL or one.opcode.endswith("-done"):
            return 0
        if '"AllocateBuffer"' in one.attributes:
            return 0
        body = next((c for how, c in one.calls() if how == "calls"), None)
        inner = self.computations[body] if one.opcode == "fusion" and body else [one]
        operands = one.operand_names
        if inner[0] is one:
            inner_names = operands
        else:
            by_number = {p.operands: p.name for p in inner if p.opcode == "parameter"}
            inner_names = [by_number[str(i)] for i in range(len(operands))]
        written = sum(array.stored for array in _result(one))
        read = 0
        for name, inner_name in zip(operands, inner_names, strict=True):
            whole = sum(array.stored for array in types[name].arrays) if name in types else 0
            users = [user for user in inner if inner_name in user.operand_names]
            if whole and users and all(user.opcode in _SLICES for user in users):
                whole = min(whole, sum(_slice(user, inner_name, inner, types) for user in users))
            read += whole
        updates = [x for x in inner if x.opcode == "dynamic-update-slice"]
        if updates:  # in place: what is written is the update
            update = sum(_type_of(x.operand_names[1], inner, types) for x in updates)
            written = min(written, update)
        return read + written


_SLICES = ("dynamic-slice", "slice", "slice-start", "gather", "dynamic-update-slice")


def _slice(user: Instruction, name: str, inner: list, types: dict) -> int:
    """Bytes of operand `name` that a slicing instruction touches."""
    if user.opcode != "dynamic-update-slice":
        return sum(array.bytes for array in _result(user))
    names = user.operand_names
    return 0 if names[0] == name else _type_of(name, inner, types)


def _type_of(name: str, inner: list[Instruction], types: dict[str, Instruction]) -> int:
    found = next((x for x in inner if x.name == name), types.get(name))
    return sum(array.bytes for array in found.arrays) if found else 0


def arrays(text: str) -> list[Array]:
    """The array types in a piece of HLO text, in order."""
    found = []
    for dtype, shape, layout in _ARRAY.findall(text):
        sizes = tuple(int(size.lstrip("<=")) for size in shape.split(",") if size)
        found.append(Array(dtype, sizes, layout))
    return found


def _instruction(line: str) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", line).strip().removeprefix("ROOT ")
    name, _, rest = text.partition(" = ")
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    type_text, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    end = _closing(rest)
    return Instruction(name.lstrip("%"), type_text, opcode, rest[1 : end - 1], rest[end:])


def _closing(text: str) -> int:
    """The place after the bracket that closes the one `text` begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"HLO: unbalanced brackets in {text[:80]!r}")


def _parts(text: str) -> list[str]:
    """The elements of a tuple type."""
    parts, depth, start = [], 0, 1
    for match in re.finditer(r"[(){}\[\],]", text):
        if match[0] in "({[":
            depth += 1
        elif match[0] in ")}]":
            depth -= 1
        if (match[0] == "," and depth == 1) or depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return parts


def _result(one: Instruction) -> list[Array]:
    """What an instruction makes: of the asynchronous forms, the result and not the rest."""
    if one.opcode in ("all-gather-start", "collective-permute-start", "slice-start"):
        return arrays(_parts(one.type)[1])
    if one.opcode in ("copy-start", "send"):
        return arrays(_parts(one.type)[0])
    return one.arrays


def _group_size(attributes: str) -> int:
    """How many devices take part in a collective, together.

    Groups are listed, `{{0,1},{2,3}}`; or counted, `[groups,size]<=`; or axes of a mesh,
    `mesh['a'=2,'b'=4] {'a'}`.
    """
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    if counted:
        return int(counted[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes)
    return listed[1].count(",") + 1 if listed else 1
