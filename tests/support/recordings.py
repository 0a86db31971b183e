"""Recordings made without a KVM: a guest that prints letters and writes memory, as a recorder would have written it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyvmm import exits
from pyvmm.kvm import structs, uapi
from pyvmm.observe.explain.layout import plain
from pyvmm.observe.recording import format
from pyvmm.observe.recording.reader import Header, Keyframe
from pyvmm.observe.recording.writer import Writer
from pyvmm.snapshot.plain import pack
from tests.support import exit_pages

RAM = 1 << 20
THR, LSR = 0x3F8, 0x3FD


def header(**changed: Any) -> Header:
    """Of a guest with 1 MiB."""
    fields: dict[str, Any] = {
        "pyvmm": "0", "name": "letters", "command": ["pyvmm", "record", "letters"], "vcpus": 1, "ram": [[0, RAM]], "cpu": "",
        "host": "nowhere", "kvm": "svm", "emulates_ring0": False, "started": 0, "config": {"boot": {"kernel": "/nowhere/letters.bin"}},
    }  # fmt: skip
    return Header(**{**fields, **changed})


def registers(rip: int, rax: int = 0) -> bytes:
    """kvm_regs, kvm_sregs and kvm_vcpu_events in 16-bit real mode."""
    sregs = structs.kvm_sregs(cr0=0x10)
    return bytes(structs.kvm_regs(rip=rip, rax=rax, rflags=2)) + bytes(sregs) + bytes(structs.kvm_vcpu_events())


def frozen(port: int, data: bytes = b"") -> bytes:
    """A port access: OUT of data, IN without."""
    page = exit_pages.page(uapi.KVM_EXIT_IO)
    page[structs.RUN_IO_DIRECTION], page[structs.RUN_IO_SIZE], page[structs.RUN_IO_COUNT] = bool(data), 1, 1
    page[structs.RUN_IO_PORT : structs.RUN_IO_PORT + 2] = port.to_bytes(2, "little")
    page[structs.RUN_IO_DATA_OFFSET + 1] = 0x10
    page[0x1000 : 0x1000 + len(data)] = data
    return exits.freeze(memoryview(page))


class Author:
    """Writes a recording exit by exit.

    Args:
        path: the file.
        exact: memory at every exit, not at keyframes alone.
    """

    def __init__(self, path: Path, exact: bool = True, **changed: Any) -> None:
        self.count = 0
        self.exact = exact
        self.errors: list[BaseException] = []
        self.writer = Writer(str(path), header(**changed), self.errors.append)
        self.devices: dict[str, dict[str, Any]] = {"serial0": {"lcr": 0, "sent": 0}, "rtc": {"ram": bytes(4)}}
        self.console = b""
        self._body = b""
        self._since = 0
        self._last = registers(0x7C00)
        self.keyframe({})

    def keyframe(self, pages: dict[int, bytes], fresh: bool = False) -> None:
        """The state now."""
        self.flush()
        self.writer.keyframe(self.count, self._state(), pages, fresh)

    def direct(self, uniform: dict[int, list[int]], extents: list[tuple[int, memoryview]]) -> None:
        """Likewise, with pages from memory; the writer is ``direct``."""
        self.flush()
        self.writer.keyframe_direct(self.count, self._state(), uniform, extents)

    def _state(self) -> Keyframe:
        vcpu = {
            "regs": self._last[: format.REGS], "sregs": b"", "xsave": b"", "xcrs": b"", "msrs": {0x10: self.count},
            "lapic": bytes(1024), "events": b"", "debugregs": b"", "mp_state": 0, "tsc_khz": 1,
        }  # fmt: skip
        return Keyframe(
            time=1000 * self.count,
            registers=[self._last],
            devices={name: dict(fields) for name, fields in self.devices.items()},
            layout=plain(exit_pages.BOARD),
            console=self.console,
            exact=self.exact,
            vcpus={0: vcpu},
            vm={"chips": [bytes(512)] * 3, "pit": b"", "clock": 1, "taken": 1},
        )

    def exit(self, letter: bytes = b"", patch: tuple[int, int, bytes] | None = None, flags: int = 0) -> None:
        """An OUT of a letter to THR; an IN of LSR for b""."""
        self.count += 1
        page = frozen(THR, letter) if letter else frozen(LSR)
        now = registers(0x7C00 + self.count, letter[0] if letter else 0x60)
        answer = b"" if letter else b"\x60"
        body = b""
        if now[format.REGS :] != self._last[format.REGS :] or self.count == 1:
            flags |= format.SYSTEM
            body += now[format.REGS :]
        if letter:
            self.console += letter
            self.devices["serial0"]["sent"] = self.count
            changed = pack({"serial0": {"sent": self.count}})
            flags |= format.CHANGES | format.CONSOLE
            body += format.LENGTH.pack(len(changed)) + changed + format.LENGTH.pack(1) + letter
        if patch is not None:
            number, first, data = patch
            packed = format.PATCH.pack(number, first, len(data)) + data
            flags |= format.PATCHES
            body += format.LENGTH.pack(len(packed)) + packed
        self._last = now
        head = format.ENTRY.pack(0, flags, 0, len(page), len(answer), 500, 1000 * self.count, 400, 0x7C00 + self.count - 1)
        self._body += head + page + answer + now[: format.REGS] + body
        self._since += 1

    def flush(self) -> None:
        """The exits since the last time as a chunk."""
        if self._since:
            self.writer.put(format.EXIT, self.count + 1 - self._since, self._since, self._body)
        self._body, self._since = b"", 0

    def close(self, kind: str = "poweroff") -> None:
        """The end; "" for none."""
        self.flush()
        self.writer.close({"kind": kind, "detail": "", "value": 0, "vcpu": 0, "report": "", "console": b"!", "time": 1} if kind else None)
        assert not self.errors


def letters(path: Path, exact: bool = True, text: bytes = b"Hello, world") -> Path:
    """A short recording: an IN and an OUT for each letter, one byte of page 5 counting them, a keyframe after every 8 exits."""
    author = Author(path, exact)
    for at, letter in enumerate(text):
        author.exit()
        author.exit(bytes([letter]), (5, at, b"\xee") if exact else None)
        if at % 4 == 3:
            counter = (b"\xee" * (at + 1)).ljust(4096, b"\0")
            if author.writer.direct:
                author.direct({at: [0x20 + at]}, [(5, memoryview(counter))])
            else:
                author.keyframe({5: counter, 0x20 + at: bytes([at]) * 4096})
    author.close()
    return path
