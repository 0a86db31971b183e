"""Recordings made of a few lines: exits on a made-up run page, written by the real writer."""

from __future__ import annotations

from pathlib import Path
from struct import pack
from typing import Any

from pyvmm.exits import freeze
from pyvmm.observe.explain.layout import Layout, Window, plain
from pyvmm.observe.recording import extras, format
from pyvmm.observe.recording.reader import Header, Keyframe
from pyvmm.observe.recording.writer import Writer
from tests.unit.test_runloop import FakeVcpu

LAYOUT = Layout(
    ports=[
        Window(base=0x70, length=2, device="rtc", width=1, state="rtc", tables=((0, "pyvmm.devices.rtc_regs:REGISTERS"),)),
        Window(base=0x3F8, length=8, device="serial0", width=1, state="serial0", tables=((0, "pyvmm.devices.serial_regs:REGISTERS"),)),
    ]
)
DEVICES: dict[str, Any] = {"serial0": {"lcr": 3}, "rtc": {"index": 0}}


class Tape:
    """A recording in the making; ``io`` and ``mmio`` add an exit each, ``close`` gives the path."""

    def __init__(self, path: Path, vcpus: int = 1, name: str = "guest", config: dict[str, Any] | None = None) -> None:
        self.path = path
        self.count = 0
        self.time = 1000
        self._ended = dict.fromkeys(range(vcpus), 0)
        header = Header(
            pyvmm="0", name=name, command=["pyvmm", "record", name], vcpus=vcpus, ram=[[0, 1 << 20]], cpu="", host="a host", kvm="a KVM",
            emulates_ring0=False, started=0, config=config or {},
        )  # fmt: skip
        self.writer = Writer(str(path), header, self._failed)
        zero = bytes(format.REGS + format.SYSTEM_SIZE)
        start = Keyframe(
            time=0, registers=[zero] * vcpus, devices=DEVICES, layout=plain(LAYOUT), console=b"", exact=False, vcpus={}, vm={}
        )  # fmt: skip
        self.writer.keyframe(0, start, {0: b"\xee" + bytes(4095)})

    def _failed(self, error: BaseException) -> None:
        raise error

    def io(self, direction: int, port: int, data: bytes = b"", answer: bytes = b"", **more: Any) -> None:
        """An access of one byte."""
        vcpu = FakeVcpu()
        vcpu.io(direction, port, 1, data)
        self._exit(vcpu, answer, **more)

    def mmio(self, address: int, size: int, data: bytes | None, answer: bytes = b"", **more: Any) -> None:
        vcpu = FakeVcpu()
        vcpu.mmio(address, size, data)
        self._exit(vcpu, answer, **more)

    def _exit(
        self, page: FakeVcpu, answer: bytes, vcpu: int = 0, took: int = 500, guest: int = 2000, rip: int = 1, console: bytes = b"",
        changes: bytes = b"",
    ) -> None:  # fmt: skip
        self.count += 1
        self.time += guest
        frozen = freeze(page.page)
        flags = (format.CONSOLE if console else 0) | (format.CHANGES if changes else 0)
        body = format.ENTRY.pack(vcpu, flags, 0, len(frozen), len(answer), took, self.time, self.time - self._ended[vcpu], rip)
        body += frozen + answer + bytes(format.REGS)
        for part in (changes, console):
            body += format.LENGTH.pack(len(part)) + part if part else b""
        self.writer.put(format.EXIT, self.count, 1, body)
        self.time += took
        self._ended[vcpu] = self.time

    def sample(self, *samples: tuple[int, int, int, int]) -> None:
        """(ns, vCPU, flags, rip)"""
        packed = b"".join(extras.SAMPLE.pack(time, vcpu, flags, 0, rip) for time, vcpu, flags, rip in samples)
        self.writer.add(extras.SAMPLES, 0, {"samples": packed})

    def counters(self, *looks: tuple[int, dict[str, int]]) -> None:
        """What the kernel counted for each vCPU: (ns, counters), the same names each time."""
        names = list(looks[0][1])
        fields = [[name, index, 1, 0] for index, name in enumerate(names)]
        vcpus = len(self._ended)
        rows = b"".join(pack("<Q", time) + vcpus * pack(f"<{len(names)}Q", *values.values()) for time, values in looks)
        times = [name for name in names if name.endswith("_ns")]
        data = {"fields": [[], fields], "vcpus": vcpus, "nanoseconds": times, "lengths": [0, 8 * len(names)], "rows": rows}
        self.writer.add(extras.KERNEL, 0, data)

    def close(self) -> str:
        self.writer.close(
            {"kind": "poweroff", "detail": "", "value": 0, "vcpu": None, "report": "", "time": self.time + 100, "console": b""}
        )
        return str(self.path)
