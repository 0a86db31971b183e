"""Sites with names, tables and JSON."""

from __future__ import annotations

import json

import pytest

from pyvmm.kvm import uapi
from pyvmm.observe.explain.layout import Layout, Window
from pyvmm.observe.stats import meter, summary, text
from pyvmm.observe.stats.meter import KICKED, OTHERS
from pyvmm.observe.stats.summary import Row, Summary

LAYOUT = Layout(
    ports=[Window(base=0x3F8, length=8, device="serial0", width=1, state="serial0", tables=((0, "pyvmm.devices.serial_regs:REGISTERS"),))]
)
OUT, IN = 1 | 1 << 8 | 0x3F8 << 16, 1 << 8 | 0x3FD << 16


def _cell(*times: int) -> list[int]:
    cell = meter.empty()
    for spent in times:
        meter.note(cell, spent)
    return cell


def _rows() -> list[Row]:
    total: summary.Cells = {}
    first = {uapi.KVM_EXIT_IO: {OUT: _cell(1000, 3000), IN: _cell(500)}, KICKED: {None: _cell(9000)}}
    second = {
        uapi.KVM_EXIT_IO: {OUT: _cell(2000)},
        uapi.KVM_EXIT_MMIO: {(0xD000_0000, 4 | 1 << 32 | 0xAB << 40): _cell(100), OTHERS: _cell(70)},
    }
    for cells in (first, second):
        summary.gather(total, cells)  # type: ignore[arg-type]
    return summary.rows(total, LAYOUT, {"serial0": {"lcr": 3}})


def test_rows_say_who_answered_and_add_vcpus_up() -> None:
    rows = {(row.reason, row.access, row.address): row for row in _rows()}
    out = rows["io", "out", 0x3F8]
    assert (out.device, out.register, out.count, out.total, out.least, out.average, out.most) == ("COM1", "THR", 3, 6000, 1000, 2000, 3000)
    assert rows["io", "in", 0x3FD].register == "LSR"
    nobody = rows["mmio", "write", 0xD000_0000]
    assert (nobody.size, nobody.device) == (4, "")  # the padding behind is_write is no part of the place
    assert rows["mmio", OTHERS, -1].count == 1
    assert rows["kicked", "", -1].total == 9000
    assert [row.total for row in _rows()] == sorted((row.total for row in _rows()), reverse=True)


def test_kicks_are_returns_but_no_answers() -> None:
    found = Summary(rows=_rows(), wall=100_000, vcpus=2)
    assert found.returns == 7
    assert found.busy == 6670
    assert found.share(found.rows[1]) == pytest.approx(6000 / 200_000)


def test_the_register_an_index_port_chose_last_says_nothing_of_earlier_accesses() -> None:
    layout = Layout(
        ports=[Window(base=0x70, length=2, device="rtc", width=1, state="rtc", tables=((0, "pyvmm.devices.rtc_regs:REGISTERS"),))]
    )
    cells = {(uapi.KVM_EXIT_IO, 1 << 8 | 0x71 << 16): _cell(1)}
    (row,) = summary.rows(cells, layout, {"rtc": {"index": 4}})
    assert row.register == "DATA"


def test_table() -> None:
    found = Summary(
        rows=_rows(),
        wall=100_000,
        vcpus=2,
        kernel=[
            {"exits": 10, "halt_wait_ns": 5_000_000, "never": 0, "hist": [1]},
            {"exits": 2, "halt_wait_ns": 0, "never": 0, "hist": [1]},
        ],
        vm={"pages_4k": 7},
        nanoseconds=["halt_wait_ns"],
        ended="poweroff",
    )
    shown = text.render(found, "hello", sort="count")
    assert shown.startswith("hello: 0.10 ms, 2 vCPUs; poweroff\n")
    assert "         3   3.00%       0.01      1.0      2.0      3.0       3.0  io out       0x3f8/1          COM1 THR\n" in shown
    assert "               12             10              2  exits" in shown
    assert "          5.00 ms" in shown
    assert "never" not in shown
    assert "never" in text.render(found, "hello", everything=True)
    assert "nobody" in shown
    assert "in 3 more kinds" in text.render(found, "hello", most=2)
    assert max(len(line) for line in shown.splitlines()) <= 120


def test_table_without_the_kernels_counters() -> None:
    assert "Linux 5.14" in text.render(Summary(), "hello")


def test_json_has_every_row() -> None:
    found = Summary(rows=_rows(), wall=100_000, kernel=[{"exits": 1}])
    plain = json.loads(json.dumps(found.plain()))
    assert sum(each["count"] for each in plain["user_space"]["exits"]) == plain["user_space"]["returns"] == 7
    assert plain["user_space"]["exits"][1] | {"share": 0} == {
        "reason": "io", "access": "out", "address": 0x3F8, "size": 1, "device": "COM1", "register": "THR",
        "count": 3, "total_ns": 6000, "min_ns": 1000, "avg_ns": 2000, "max_ns": 3000, "p99_ns": 3000, "share": 0,
    }  # fmt: skip
    assert plain["kernel"]["vcpus"] == [{"exits": 1}]
