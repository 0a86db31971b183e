"""QEMU's pci-testdev (docs/specs/pci-testdev), which kvm-unit-tests time: writes to a BAR, with and without a doorbell.

BAR 0 is memory, BAR 1 I/O. A byte written to offset 0 of either chooses one of its tests; the BAR then reads as that
test's header: where to write what, and how many writes came. A test with a doorbell has KVM take them by ioeventfd.
"""

from __future__ import annotations

import os
from struct import pack

from pyvmm.devices.pci.function import PciFunction
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.pci.function import Bar

    Bind = Callable[[int, int, int, int | None, bool, bool], None]
    """(eventfd, address, length, value that must match or None, on ports, on or off): KVM_IOEVENTFD."""

VENDOR, DEVICE, CLASS = 0x1B36, 0x0005, 0x00_FF_00
MEMORY_LENGTH, IO_LENGTH = 4096, 256
WIDTH = 1
TESTS = (("no-eventfd", 0xFA, True), ("wildcard-eventfd", 0xCE, False), ("datamatch-eventfd", 0xFA, True))  # name, data, must match
NONE = -1


class TestdevState(Record):
    """The running test, 0 to 2 on BAR 0, 3 to 5 on BAR 1, and how many writes it has seen."""

    current: int = NONE
    count: int = 0


class PciTestdev(PciFunction):
    """The function; its BARs' devices are views of it.

    Args:
        bind: registers doorbells; None: every write is an exit.
    """

    def __init__(self, bind: Bind | None = None) -> None:
        super().__init__("pci-testdev", VENDOR, DEVICE, CLASS, subsystem=(0x1AF4, 0x1100), pin=0)
        self.bind = bind
        self.test = TestdevState()
        self._eventfd = -1
        self._bound: tuple[int, int | None, bool] | None = None  # address, value, on ports
        self._places = (
            self.add_bar(0, MEMORY_LENGTH, _View(self, 0), width=WIDTH),
            self.add_bar(1, IO_LENGTH, _View(self, 1), kind="io", width=WIDTH),
        )
        for bar in self._places:
            bar.on_place = self._placed
        self.at_reset.append(self._stop)

    def header(self) -> bytes:
        """What the BARs read as: nothing while no test runs."""
        current = self.test.current
        if current == NONE:
            return b""
        self._collect()
        name, data, _ = TESTS[current % 3]
        where = f"{('mmio', 'portio')[current // 3]}-{name}".encode()
        return pack("<BBxxIII", current, WIDTH, _offset(current), data, self.test.count & 0xFFFF_FFFF) + where + b"\0"

    def start(self, bar: int, number: int) -> None:
        """Ends the running test and begins another, if there is one of that number."""
        self._stop()
        if number < len(TESTS):
            self.test = TestdevState(current=bar * len(TESTS) + number)
            self._ring(self._places[bar])

    def written(self, bar: int, offset: int, value: int) -> None:
        """A write that no doorbell took."""
        current = self.test.current
        if current != NONE and current // 3 == bar and offset == _offset(current):
            _, data, must_match = TESTS[current % 3]
            if not must_match or value == data:
                self.test.count += 1

    # --- the doorbell ------------------------------------------------------------------------------------------------
    def _ring(self, bar: Bar) -> None:
        current = self.test.current
        if self.bind is None or current % 3 == 0 or bar.base is None:
            return
        if self._eventfd < 0:
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        _, data, must_match = TESTS[current % 3]
        self._bound = bar.base + _offset(current), data if must_match else None, bar.kind == "io"
        self.bind(self._eventfd, self._bound[0], WIDTH, *self._bound[1:], True)

    def _unring(self) -> None:
        if self._bound is not None and self.bind is not None:
            self._collect()
            self.bind(self._eventfd, self._bound[0], WIDTH, *self._bound[1:], False)
            self._bound = None

    def _placed(self, base: int | None) -> None:
        if self.test.current != NONE:
            self._unring()
            self._ring(self._places[self.test.current // 3])

    def _collect(self) -> None:
        if self._bound is not None:
            try:
                self.test.count += os.eventfd_read(self._eventfd)
            except BlockingIOError:
                pass

    def _stop(self) -> None:
        self._unring()
        self.test = TestdevState()

    def close(self) -> None:
        """Gives the doorbell's descriptor back."""
        self._unring()
        if self._eventfd >= 0:
            os.close(self._eventfd)
            self._eventfd = -1


class _View:
    """One of the BARs, byte by byte."""

    registers = "pyvmm.devices.pci.testdev_regs:HEADER"

    def __init__(self, card: PciTestdev, bar: int) -> None:
        self.name = "pci-testdev"
        self.card = card
        self.bar = bar

    @property
    def state(self) -> TestdevState:
        self.card._collect()
        return self.card.test

    @state.setter
    def state(self, value: TestdevState) -> None:
        self.card.test = value

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.card.header()[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset:
            self.card.written(self.bar, offset, value)
        else:
            self.card.start(self.bar, value)

    def reset(self) -> None:
        self.card.reset()

    def restored(self) -> None:
        """After the state was assigned from outside: the doorbell follows; what it counted since is nothing."""
        count, self.card.test.count = self.card.test.count, 0
        self.card._unring()
        self.card.test.count = count
        if self.card.test.current != NONE:
            self.card._ring(self.card._places[self.card.test.current // len(TESTS)])


def _offset(current: int) -> int:
    return (MEMORY_LENGTH, IO_LENGTH)[current // 3] // 2 + current * WIDTH
