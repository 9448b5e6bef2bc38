import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llasa_jax.parallel.hlo import Module, arrays

# A scan of 5 steps round an all-reduce, an asynchronous gather in a nested computation before it.
HLO = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: f32[5,4,128], p1: s32[]) -> f32[4,128] {
  %p0 = f32[5,4,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = f32[1,4,128]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,4,128}
  ROOT %flat = f32[4,128]{1,0:T(8,128)} bitcast(%cut)
}

%body (state: (s32[], f32[4,128], f32[5,4,128])) -> (s32[], f32[4,128], f32[5,4,128]) {
  %state = (s32[]{:T(128)}, f32[4,128]{1,0:T(8,128)}, /*index=2*/f32[5,4,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[4,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %w = f32[5,4,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %wi = f32[4,128]{1,0:T(8,128)} fusion(%w, %i), kind=kLoop, calls=%fused
  %r = f32[4,128]{1,0:T(8,128)} all-reduce(%wi), channel_id=1, replica_groups=[2,4]<=[8], use_global_device_ids=true, to_apply=%add
  ROOT %next = (s32[]{:T(128)}, f32[4,128]{1,0:T(8,128)}, f32[5,4,128]{2,1,0:T(8,128)}) tuple(%i, %r, %w)
}

%condition (state: (s32[], f32[4,128], f32[5,4,128])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[4,128]{1,0:T(8,128)}, f32[5,4,128]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %bound = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

%scatter (p: bf16[16,128]) -> bf16[2,128] {
  %p = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %rs = bf16[2,128]{1,0:T(2,128)(2,1)} reduce-scatter(%p), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
}

%unused (p: f32[8]) -> f32[8] {
  ROOT %dead = f32[8]{0} all-reduce(%add), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[4,128], w: f32[5,4,128], h: bf16[16,128]) -> f32[4,128] {
  %x0 = f32[4,128]{1,0:T(8,128)} parameter(0)
  %w0 = f32[5,4,128]{2,1,0:T(8,128)} parameter(1)
  %h = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(2)
  %start = (f32[4,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) all-gather-start(%x0), channel_id=2, replica_groups=[4,2]<=[2,2,2]T(1,2,0), dimensions={0}
  %done = f32[8,128]{1,0:T(8,128)} all-gather-done(%start)
  %async = ((bf16[16,128]{1,0:T(8,128)(2,1)}), bf16[2,128]{1,0:T(2,128)(2,1)}, u32[]{:S(2)}) async-start(%h), calls=%scatter
  %finished = bf16[2,128]{1,0:T(2,128)(2,1)} async-done(%async)
  %near = f32[8,128]{1,0:T(8,128)S(1)} copy(%done), metadata={op_name="jit(step)/while/body (not in it)"}
  %zero.1 = s32[]{:T(128)} constant(0)
  %start.1 = (s32[]{:T(128)}, f32[4,128]{1,0:T(8,128)}, f32[5,4,128]{2,1,0:T(8,128)}) tuple(%zero.1, %x0, %w0)
  %loop = (s32[]{:T(128)}, f32[4,128]{1,0:T(8,128)}, f32[5,4,128]{2,1,0:T(8,128)}) while(%start.1), condition=%condition, body=%body
  ROOT %out = f32[4,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_collectives_with_their_bytes_groups_and_loops():
    found = {c.kind: c for c in Module.parse(HLO).collectives()}
    assert len(found) == len(Module.parse(HLO).collectives()) == 3  # the unreached one is not there
    reduce, gather, scatter = (found[k] for k in ("all-reduce", "all-gather", "reduce-scatter"))
    assert (reduce.bytes, reduce.in_loop, reduce.times) == (4 * 128 * 4, True, 5)
    assert (gather.bytes, gather.in_loop, gather.times) == (
        8 * 128 * 4,
        False,
        1,
    )  # not its operand
    assert (scatter.bytes, scatter.in_loop, scatter.times) == (2 * 128 * 2, False, 1)
    assert (reduce.devices, gather.devices, scatter.devices) == (4, 2, 8)


def test_transfers_between_slices_are_sends_to_the_host():
    send = "%send = (f32[64,128]{1,0}, u32[], token[]) send(%x0, %token), channel_id=9"
    mark = 'is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:15}"}'
    text = HLO.replace("  %near =", f"  {send}, {mark}\n  %near =")
    (found,) = [c for c in Module.parse(text).collectives() if c.kind == "send"]
    assert found.bytes == found.sent == 64 * 128 * 4
    assert len(Module.parse(text.replace(mark, "")).collectives()) == 3


@pytest.mark.parametrize(
    "groups, devices",
    [
        ("mesh['a'=2,'b'=4] {'b'}", 4),
        ("mesh['a'=2,'b'=4,'c'=3] {'a','c'}", 6),
        ("{{0,2,4},{1,3,5}}", 3),
        ("[4,2]<=[2,2,2]T(2,1,0)", 2),
        ("{}", 1),
    ],
)
def test_spellings_of_groups(groups, devices):
    text = HLO.replace("replica_groups=[2,4]<=[8]", f"replica_groups={groups}")
    (reduce,) = [c for c in Module.parse(text).collectives() if c.in_loop]
    assert reduce.devices == devices


def test_bytes_sent_by_a_ring():
    found = {c.kind: c.sent for c in Module.parse(HLO).collectives()}
    assert found["all-reduce"] == 2 * 3 / 4 * 2048  # reduce-scatter, then gather, of quarters
    assert found["all-gather"] == 4096 / 2  # its own half goes to the other device
    assert found["reduce-scatter"] == 7 * 512  # seven of eight shards leave


def test_a_known_trip_count_goes_before_the_bound():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    (reduce,) = [
        c for c in Module.parse(HLO.replace("body=%body", known)).collectives() if c.in_loop
    ]
    assert reduce.times == 3


def test_nested_loops_multiply():
    outer = """%twice (s: (f32[4])) -> (f32[4]) {
  %s = (f32[4]{0}) parameter(0)
  ROOT %w = (f32[4]{0}) while(%s), condition=%c2, body=%inner, backend_config={"known_trip_count":{"n":"2"}}
}

"""  # noqa: E501
    text = (
        """HloModule m

%inner (s: (f32[4])) -> (f32[4]) {
  %s.1 = (f32[4]{0}) parameter(0)
  %g = f32[4]{0} get-tuple-element(%s.1), index=0
  %p = f32[4]{0} collective-permute(%g), source_target_pairs={{0,1},{1,0}}
  ROOT %t = (f32[4]{0}) tuple(%p)
}

%c2 (s: (f32[4])) -> pred[] {
  ROOT %yes = pred[] constant(true)
}

"""
        + outer
        + """ENTRY %main (s: (f32[4])) -> (f32[4]) {
  %s.2 = (f32[4]{0}) parameter(0)
  %a = (f32[4]{0}) call(%s.2), to_apply=%twice
  ROOT %w.1 = (f32[4]{0}) while(%a), condition=%c2, body=%twice, backend_config={"known_trip_count":{"n":"7"}}
}
"""  # noqa: E501
    )
    (permute,) = Module.parse(text).collectives()
    assert permute.times == 2 + 2 * 7 and permute.in_loop
    assert (permute.kind, permute.bytes, permute.sent) == ("collective-permute", 16, 16)
    assert Module.parse(text).traffic() == 16 * (16 + 16)  # also what is called is read and written


def test_traffic_counts_what_is_read_and_written_in_main_memory():
    entry = {
        "start": 8 * 128 * 4 + 8 * 128 * 4,  # reads x0, tiled to 8 rows, and writes the gathered
        "near": 8 * 128 * 4,  # reads only: its result lies in faster memory
    }
    # A step takes one of five slices, not all of w, and writes it; then reads it and its sum.
    tile = 8 * 128 * 4
    step = (4 * 128 * 4 + 512 + tile) + (tile + tile)
    scatter = 16 * 128 * 2 + 2 * 128 * 2
    compare = 2 * 512 + 512
    got = Module.parse(HLO).traffic()
    assert got == pytest.approx(sum(entry.values()) + 5 * step + scatter, abs=5 * compare)


def test_types():
    bf16, pred, scalar = arrays("(bf16[3,100]{1,0:T(8,128)(2,1)}, pred[7]{0}, u32[]{:S(2)})")
    assert bf16.bytes == 600 and bf16.stored == 8 * 128 * 2
    assert pred.bytes == pred.stored == 7
    assert scalar.bytes == 4 and scalar.stored == 0
    (turned,) = arrays("f32[3,100]{0,1:T(8,128)}")  # the first axis is minor: 128 x 104
    assert turned.stored == 128 * 104 * 4
    assert [a.bytes for a in arrays("c64[2], s4[8], f8e4m3fn[5], token[]")] == [16, 4, 5, 0]


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Module.parse("HloModule nothing\n")


@pytest.fixture(scope="module")
def compiled():
    """A really compiled program: gradients of scanned layers, on eight emulated devices."""
    script = Path(__file__).with_name("eight_devices_hlo.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_compiled_program_has_the_collectives_its_sharding_asks_for(compiled):
    gathers = [c for c in compiled["collectives"] if c["kind"] == "all-gather"]
    layers = [c for c in gathers if c["in_loop"]]
    # Each of 3 scanned layers gathers its [16, 16] weight, which lies in 8 parts, there and back.
    assert layers and all(c["times"] == 3 and c["devices"] == 8 for c in layers)
    assert {c["bytes"] for c in layers} == {16 * 16 * 4}
    sums = [c for c in compiled["collectives"] if c["kind"] in ("all-reduce", "reduce-scatter")]
    assert sums and compiled["traffic"] > compiled["arguments"]


@pytest.mark.parametrize(
    "text, moves",
    [
        ("bf16[128,256]", True),  # a device's part as it lies, of width 2,048 over sixteen
        ("f32[16,2048]", True),  # the same in rows
        ("bf16[256,2048]", True),  # whole
        ("f32[524288]", True),  # flat
        ("bf16[1024,2048]", True),  # larger than the whole table, whatever it is
        ("bf16[128,2048]", True),  # half of its rows
        ("bf16[100,2048]", False),  # a layer's weights: larger than a part, but not of its rows
        ("f32[16,64]", False),  # as many rows, but few
    ],
)
def test_what_moves_the_vocabularys_table(text, moves):
    """Of 256 rows, 2,048 wide, over 16 devices."""
    line = f"  %r = {text}{{1,0}} all-reduce(%wi), channel_id=1, replica_groups=[2,4]<=[8]"
    before = next(line for line in HLO.splitlines() if "%r = " in line)
    found = Module.parse(HLO.replace(before, line)).collectives()
    (reduce,) = [c for c in found if c.in_loop]
    assert reduce.moves_table(256, 2048, 16) == moves
