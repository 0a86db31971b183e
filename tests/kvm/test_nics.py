"""Network cards in a real machine: on its PCI bus, at its I/O loop, with their wires, over resets. The drivers are this test's."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm import catalogue, events
from pyvmm.backends.net.backend import close_netdevs, open_netdevs
from pyvmm.cli.options import Options
from pyvmm.coalesce import STREAK
from pyvmm.config import BootConfig, Config, DeviceConfig, NetConfig, SerialConfig
from pyvmm.devices.e1000 import constants as c
from pyvmm.errors import ConfigError
from pyvmm.events import Access
from pyvmm.kvm import uapi
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.support import vm
from tests.support.e1000_driver import Driver as E1000Driver
from tests.support.network import frame
from tests.support.process import descriptors, wait_until
from tests.support.ring import Ring
from tests.support.virtio import MmioDriver, PciDriver

pytestmark = pytest.mark.kvm
KINDS = ("e1000", "virtio-net-pci", "virtio-net-device")


def device(name: str, **options: object) -> DeviceConfig:
    return DeviceConfig(name=name, options=tuple((key, str(value)) for key, value in options.items()))


def hub(*names: str) -> tuple[NetConfig, ...]:
    return tuple(NetConfig(id=name, kind="hubport", options=(("hubid", "0"),)) for name in names)


@contextmanager
def built(
    path: Path, *devices: DeviceConfig, netdevs: tuple[NetConfig, ...] = (), code: bytes = vm.HALT, fmt: str = "flat16", **more: Any
) -> Iterator[Machine]:
    """A machine whose guest halts in the first 64 KiB, so that the rest of its memory is the test's."""
    image = path / "guest.bin"
    image.write_bytes(code)
    config = Config(
        boot=BootConfig(kernel=str(image), fmt=fmt), memory=16 * MIB, serials=(SerialConfig(kind="null"),),
        devices=(vm.DEBUG_EXIT, *devices), netdevs=netdevs, **more,
    )  # fmt: skip
    opened = open_netdevs(netdevs)
    try:
        with Machine(config, [vm.Collector()], netdevs=opened) as machine:
            yield machine
    finally:
        close_netdevs(opened)


class E1000:
    """A driver of an e1000 in the machine, through BAR 0 as a vCPU reaches it."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine, self.memory = machine, machine.memory
        self.card = machine.devices[name]
        with machine.lock:
            self.card.write_config(4, 2, 7)
        self.base = next(bar.base for bar in self.card.bars if bar.index == 0)
        self.driver = E1000Driver(self)  # type: ignore[arg-type]
        self.driver.reset()
        self.driver.open()
        self.write(c.IMS, c.RXT0)

    def read(self, offset: int) -> int:
        with self.machine.lock:
            return self.machine.mmio.read(self.base + offset, 4)

    def write(self, offset: int, value: int) -> None:
        with self.machine.lock:
            self.machine.mmio.write(self.base + offset, 4, value)

    def send(self, data: bytes) -> None:
        self.driver.legacy(data)
        self.driver.ring()

    def received(self) -> list[bytes]:
        return self.driver.frames()

    @property
    def link(self) -> bool:
        return bool(self.read(c.STATUS) & c.STATUS_LU)


class VirtioNet:
    """A driver of virtio-net in the machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        card = machine.devices[name + "-card"]
        is_pci = hasattr(card, "bars")
        driver: Any = object.__new__(PciDriver if is_pci else MmioDriver)
        driver.device, driver.memory, driver.core = machine.devices[name], machine.memory, card.core
        if is_pci:
            driver.function, driver.mmio = card, machine.mmio
            card.write_config(4, 2, 6)
            driver.base = card.bar.base
        else:
            driver.transport = card
        self.driver = driver
        self.rings = [Ring(machine.memory, 16, (8 << 20) + n * 0x1_0000, (9 + n) * MIB, (10 + n) * MIB) for n in range(3)]
        with machine.lock:
            driver.start(dict(enumerate(self.rings)))
        for _ in range(8):
            self.rings[0].add(2048)

    def send(self, data: bytes) -> None:
        self.rings[1].add(bytes(12) + data)
        with self.machine.lock:
            self.driver.kick(1)

    def received(self) -> list[bytes]:
        ring = self.rings[0]
        kept = {head: list(buffers) for head, (_, buffers) in ring.chains.items()}
        return [ring.written(kept[head])[12:written] for head, written in ring.collect()]

    @property
    def link(self) -> bool:
        with self.machine.lock:
            return bool(self.driver.device.read_config(6, 2) & 1)


def driver(machine: Machine, kind: str, name: str) -> Any:
    return E1000(machine, name) if kind == "e1000" else VirtioNet(machine, name)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_go_from_card_to_card(kind: str, tmp_path: Path) -> None:
    other = KINDS[(KINDS.index(kind) + 1) % 3]
    devices = (device(kind, id="left", netdev="a"), device(other, id="right", netdev="b"))
    with built(tmp_path, *devices, netdevs=hub("a", "b")) as machine, vm.running(machine):
        left, right = driver(machine, kind, "left"), driver(machine, other, "right")
        got: list[bytes] = []

        def arrived(card: Any) -> bool:
            got.extend(card.received())
            return bool(got)

        data = b"\xff" * 6 + frame(1, 300)[6:]
        left.send(data)
        wait_until(lambda: arrived(right), "left to right")
        assert got == [data]
        got.clear()
        right.send(data)
        wait_until(lambda: arrived(left), "right to left")
        assert got == [data]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cable_can_be_pulled_while_it_runs(kind: str, tmp_path: Path) -> None:
    with built(tmp_path, device(kind, id="card", netdev="a"), netdevs=hub("a")) as machine, vm.running(machine):
        card = driver(machine, kind, "card")
        assert card.link
        machine.set_link("card", False)
        assert not card.link
        machine.set_link("a", True)
        assert card.link
        with pytest.raises(ConfigError, match="there is card"):
            machine.set_link("else", True)


def test_without_cards_there_is_no_link(tmp_path: Path) -> None:
    with built(tmp_path) as machine, pytest.raises(ConfigError, match="there is none"):
        machine.set_link("net0", True)


def test_an_e1000_interrupts_through_pci(tmp_path: Path) -> None:
    devices = (device("e1000", id="card", netdev="a"), device("virtio-net-pci", id="peer", netdev="b"))
    with built(tmp_path, *devices, netdevs=hub("a", "b")) as machine, vm.running(machine):
        card, peer = E1000(machine, "card"), VirtioNet(machine, "peer")
        levels: list[int] = []
        line = card.card.intx
        card.card.intx = SimpleNamespace(set=lambda level: (levels.append(level), line.set(level)))
        peer.send(b"\xff" * 6 + frame(1)[6:])
        wait_until(lambda: levels, "the interrupt")
        assert card.read(c.ICR) & c.RXT0
        assert levels == [1, 0]


# --- writes that wait in the kernel's ring -------------------------------------------------------------------------------
BASE, FLAG = 0xFEAC_0000, 0x0038_0000  # where the card is (asserted); what test and guest tell each other


def stores(offset: int, value: int, count: int = 1) -> bytes:
    """mov ecx,count; [mov dword [BASE+offset],value; loop back]."""
    store = b"\xc7\x05" + (BASE + offset).to_bytes(4, "little") + value.to_bytes(4, "little")
    return b"\xb9" + count.to_bytes(4, "little") + store + b"\xe2" + bytes([0x100 - len(store) - 2])


def await_flag(value: int) -> bytes:
    """cmp dword [FLAG],value; jne back."""
    return b"\x83\x3d" + FLAG.to_bytes(4, "little") + bytes([value]) + b"\x75\xf7"


def tell_flag(value: int) -> bytes:
    """mov dword [FLAG],value."""
    return b"\xc7\x05" + FLAG.to_bytes(4, "little") + value.to_bytes(4, "little")


@contextmanager
def posting(code: bytes, path: Path) -> Iterator[tuple[Machine, E1000, Any]]:
    """A guest that writes ITR until its card's registers are coalesced, waits for FLAG=1 and goes on with ``code``."""
    code = stores(c.ITR, 0, STREAK) + tell_flag(2) + await_flag(1) + code + vm.HANG
    devices = (device("e1000", id="card", netdev="a"), device("virtio-net-pci", id="peer", netdev="b"))
    with built(path, *devices, netdevs=hub("a", "b"), code=code, fmt="flat32") as machine:
        card = E1000(machine, "card")
        assert card.base == BASE and machine.coalesced is not None
        with vm.running(machine):
            wait_until(lambda: machine.memory.unpack("<I", FLAG) == (2,), "the guest")
            assert machine.coalesced.users[-1].on
            writes: list[Access] = []
            with machine.lock:
                machine.mmio.tap(lambda access: writes.append(access) if access.is_write else None)
            yield machine, card, writes


def test_buffers_posted_without_an_exit_end_a_shortage(tmp_path: Path) -> None:
    with posting(stores(c.RDT, 8), tmp_path) as (machine, card, writes):
        peer = VirtioNet(machine, "peer")
        card.write(c.RDT, 3)
        writes.clear()
        for number in range(6):
            peer.send(b"\xff" * 6 + frame(number)[6:])
        receiver = card.card.mac.receiver
        wait_until(lambda: receiver.waiting, "the shortage")
        machine.memory.write(FLAG, b"\1")
        wait_until(lambda: card.card.mac.regs[c.RDH] == 6, "the last frames")
        assert not receiver.waiting
        assert [access.value for access in writes if access.offset == c.RDT] == [8]


def test_a_card_looks_for_buffers_before_it_refuses_a_frame(tmp_path: Path) -> None:
    with posting(stores(c.RDT, 8) + tell_flag(3), tmp_path) as (machine, card, _):
        card.write(c.RDT, 0)
        machine.memory.write(FLAG, b"\1")
        wait_until(lambda: machine.memory.unpack("<I", FLAG) == (3,), "the guest")
        with machine.lock:
            assert card.card.receive(frame(1)[6:] + bytes(6)) and card.card.mac.regs[c.RDT] == 8


def test_a_read_sees_what_was_written_before(tmp_path: Path) -> None:
    # mov eax,[BASE+RDT]; mov [FLAG],eax
    look = b"\xa1" + (BASE + c.RDT).to_bytes(4, "little") + b"\xa3" + FLAG.to_bytes(4, "little")
    with posting(stores(c.RDT, 9) + look, tmp_path) as (machine, _, writes):
        machine.memory.write(FLAG, b"\1")
        wait_until(lambda: machine.memory.unpack("<I", FLAG) == (9,), "the guest")
        assert [access.value for access in writes if access.offset == c.RDT] == [9]


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_ping_of_an_e1000_costs_one_exit(coalesce: bool) -> None:
    """The doorbell. The network answers within it, and the buffer goes back by a coalesced write."""
    from pyvmm.backends.net.slirp_abi import load

    if load() is None:
        pytest.skip("libslirp.so.0 is not installed (Debian: libslirp0)")
    image = str(Path(catalogue.find("e1000").file).parents[1] / "bench-e1000" / "bench-e1000.elf")
    netdev = NetConfig(id="a", kind="user")
    config = Config(
        boot=BootConfig(kernel=image, cmdline="op=ping irq size=98 count=500"), memory=128 * MIB, serials=(SerialConfig(kind="null"),),
        devices=(vm.DEBUG_EXIT, device("e1000", netdev="a")), netdevs=(netdev,), coalesce=coalesce,
    )  # fmt: skip
    opened = open_netdevs((netdev,))
    counts: Counter[int] = Counter()
    try:
        with Machine(config, [vm.Collector()], netdevs=opened) as machine:
            (loop,) = machine.runloops
            quads, handle = loop.vcpu.quads, loop.exits[uapi.KVM_EXIT_MMIO]

            def counting() -> None:
                counts[quads[4] & c.MMIO_SIZE - 1] += 1
                handle()

            loop.exits[uapi.KVM_EXIT_MMIO] = counting
            assert vm.run(machine).kind == events.POWEROFF
    finally:
        close_netdevs(opened)
    assert 500 <= counts[c.TDT] < 510
    assert counts[c.RDT] < 100 if coalesce else counts[c.RDT] >= 500


def test_wires_outlive_the_guest_and_get_the_next_one_s_card(tmp_path: Path) -> None:
    netdevs = hub("a", "b")
    image = tmp_path / "guest.bin"
    image.write_bytes(vm.HALT)
    config = Config(
        boot=BootConfig(kernel=str(image), fmt="flat16"), memory=16 * MIB, serials=(), netdevs=netdevs,
        devices=(device("e1000", id="left", netdev="a"), device("virtio-net-pci", id="right", netdev="b")),
    )  # fmt: skip
    opened: Any = open_netdevs(netdevs)
    before = len(descriptors())
    try:
        for _ in range(3):
            with Machine(config, [], netdevs=opened) as machine, vm.running(machine):
                assert opened["a"].has_card
                left, right = E1000(machine, "left"), VirtioNet(machine, "right")
                left.send(b"\xff" * 6 + frame(1)[6:])
                wait_until(right.received, "the frame")
            assert not opened["a"].has_card
            assert not opened["b"].has_card
            assert len(descriptors()) <= before
    finally:
        close_netdevs(opened)


def test_names_and_addresses_when_none_are_given(tmp_path: Path) -> None:
    with built(tmp_path, device("e1000"), device("virtio-net-pci"), device("virtio-net-device", mac="02:00:00:00:00:09")) as machine:
        assert machine.cards is not None and machine.cards.nics is not None
        assert list(machine.cards.nics.cards) == ["e1000-nic0", "virtio-net0", "virtio-net1"]
        assert machine.devices["e1000-nic0-mac"].eeprom.state.words[2] == 0x5634
        assert machine.devices["virtio-net0"].mac == bytes.fromhex("525400123457")
        assert machine.devices["virtio-net1"].mac == bytes.fromhex("020000000009")
        assert not machine.devices["virtio-net0"].link, "a card without a netdev is not plugged in"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("e1000", {"netdev": "nobody"}, "no such netdev"),
        ("e1000", {"mac": "01:00:00:00:00:00"}, "unicast"),
        ("e1000", {"mac": "1:2:3"}, "unicast"),
        ("e1000", {"addr": "99"}, "slot"),
        ("e1000", {"netdev": "a"}, "another card"),
        ("virtio-net-pci", {"netdev": "nobody"}, "no such netdev"),
        ("virtio-net-pci", {"tx_queue_size": 100}, "power of two"),
        ("virtio-net-pci", {"rx_queue_size": 2048}, "64 to 1024"),
        ("virtio-net-pci", {"mq": "on"}, "one pair"),
        ("virtio-net-pci", {"host_mtu": 20}, "68 to"),
        ("virtio-net-pci", {"csum": "perhaps"}, "on or"),
    ],
)
def test_mistakes_are_one_line(name: str, options: dict[str, object], words: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=words) as error,
        built(tmp_path, device("e1000", netdev="a"), device(name, **options), netdevs=hub("a")),
    ):
        pass
    assert "\n" not in str(error.value)


def test_a_packets_way_is_told_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    devices = (device("e1000", id="left", netdev="a"), device("virtio-net-pci", id="right", netdev="b"))
    with built(tmp_path, *devices, netdevs=hub("a", "b"), trace_net=True) as machine, vm.running(machine):
        left, right = E1000(machine, "left"), VirtioNet(machine, "right")
        left.send(b"\xff" * 6 + frame(1)[6:])
        wait_until(right.received, "the frame")
    told = capfd.readouterr().err
    for words in (
        "left tx[0] tail 1: legacy 0x100000+60 EOP RS", "left tx 52:54:00:12:34:56 > ff:ff:ff:ff:ff:ff type 88b5",
        "right rx[0] head 0: 0x", "right rx used: head 0, 72 bytes written, index 1",
    ):  # fmt: skip
        assert words in told, told


def test_the_option_reaches_the_machine() -> None:
    config = Options(["hello", "--trace-net", "-nic", "hubport,hubid=0,model=virtio"]).config
    assert config is not None and config.trace_net


def test_a_machine_without_cards_loads_none() -> None:
    program = (
        "import sys\nfrom pyvmm.cli.options import Options\nfrom pyvmm.machine import Machine\nfrom pyvmm.backends.console import Console\n"
        "Machine(Options(['hello']).config, [Console()]).close()\n"
        "print([name for name in sys.modules if 'nics' in name or '.net' in name or 'e1000' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.stdout == "[]\n", done.stderr
