"""Cards: from ``-device virtio-...`` to a device on a transport, and the threads its disks are served by; network cards (nics.py).

Imported by a machine that has such a device, and only then. A disk gets an I/O thread of its own, so that one whose host does
not answer holds up no other; what must wait for the host beside it goes to one pool of workers. The others live on the main loop.

A name is registered three times in ``Machine.devices``: NAME is the device, NAME-core the registers behind its transport,
NAME-card the transport itself (VirtioPci or VirtioMmio). Of an e1000 NAME is the PCI function, NAME-mac and NAME-io its BARs.
"""

from __future__ import annotations

import os
from time import monotonic

from pyvmm import layout
from pyvmm.errors import ConfigError
from pyvmm.iothread import IoThread
from pyvmm.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.console import Console
    from pyvmm.config import DeviceConfig
    from pyvmm.devices.virtio.device import VirtioDevice
    from pyvmm.devices.virtio.doorbells import Bind
    from pyvmm.devices.virtio.mmio import VirtioMmio
    from pyvmm.devices.virtio.pci import VirtioPci
    from pyvmm.machine import Machine
    from pyvmm.nics import Nics

MAX_QUEUES = 64
MAX_QUEUE_SIZE = 1024  # as QEMU; a request's buffers then fit one preadv (IOV_MAX)
MAX_VECTORS = 2048
_SUFFIXES = ("", "-core", "-card")
_E1000_SUFFIXES = ("", "-mac", "-io")


class Cards:
    """The virtio devices of one machine.

    Args:
        machine: whose buses, lines, loop and VM they use; must have ``pci``.

    Raises:
        ConfigError: an option makes no sense, or there is no room.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.transports: list[VirtioPci | VirtioMmio] = []
        self.threads: list[IoThread] = []
        self.workers = Workers(machine.crashed)
        self.nics: Nics | None = None  # None: there are no network cards
        self.slots: list[tuple[DeviceConfig, int]] = []  # of those on PCI
        self._places = layout.virtio_mmio(machine.config.devices)
        try:
            for index, config in enumerate(machine.config.devices):
                if config.name == "e1000":
                    self._e1000(config)
                elif config.name.startswith("virtio-"):
                    self._add(index, config)
            if self.nics is not None:
                self.nics.attach()
                if machine.config.trace_net:
                    from pyvmm.backends.stderr import say

                    self.nics.trace(say)
        except BaseException:
            self.close()
            raise

    # --- building ----------------------------------------------------------------------------------------------------
    def _add(self, index: int, config: DeviceConfig) -> None:
        kind = config.name.rpartition("-")[0]
        name = self._name(kind, config.get("id"))
        if kind == "virtio-blk":
            device = self._blk(name, config)
        elif kind == "virtio-rng":
            device = self._rng(name, config)
        elif kind == "virtio-serial":
            device = self._serial(name, index)
        elif kind == "virtio-net":
            device = self._nics().virtio_net(name, config)
        else:
            raise ConfigError(f"-device {config.name}: not known")
        self._plug(device, config)

    def _nics(self) -> Nics:
        if self.nics is None:
            from pyvmm.nics import Nics

            self.nics = Nics(self.machine)
        return self.nics

    def _e1000(self, config: DeviceConfig) -> None:
        card = self._nics().e1000(self._name("e1000-nic", config.get("id")), config)
        self.slots.append((config, self.machine.pci.plug(card, _slot(config))))
        for suffix, part in zip(_E1000_SUFFIXES, (card, card.mac, card.io), strict=True):
            self.machine.devices[card.name + suffix] = part

    def _name(self, kind: str, wanted: str) -> str:
        """What the device is called: its id, if nothing on the board has that name, else KIND-ID; without an id KIND and a number."""
        names = [wanted, f"{kind}-{wanted}"] if wanted else []
        names += [f"{kind}{number}" for number in range(len(self.machine.devices) + 1)]
        taken = self.machine.devices
        return next(name for name in names if not any(name + suffix in taken for suffix in (*_SUFFIXES, *_E1000_SUFFIXES)))

    def _plug(self, device: VirtioDevice, config: DeviceConfig) -> None:
        machine = self.machine
        bind = self._bind if config.flag("ioeventfd", True) else None
        card: VirtioPci | VirtioMmio
        if config.name.endswith("-device"):
            from pyvmm.devices.virtio import mmio

            if not self._places:
                raise ConfigError(
                    f"-device {config.name}: at most {layout.VIRTIO_MMIO_MAX} of these: write {config.name[:-6]}pci for the rest"
                )
            address, irq = self._places.pop(0)
            card = mmio.VirtioMmio(device, machine.memory, machine.lines.source(irq), address, bind)
            self.transports.append(card)
            machine.mmio.add(address, mmio.LENGTH, card)
        else:
            from pyvmm.devices.virtio.pci import VirtioPci

            vectors = config.number("vectors", -1, 0, MAX_VECTORS)
            card = VirtioPci(device, machine.memory, machine.vm.msi, bind, None if vectors < 0 else vectors, config.transitional)
            self.transports.append(card)
            self.slots.append((config, machine.pci.plug(card, _slot(config))))
        for suffix, part in zip(_SUFFIXES, (device, card.core, card), strict=True):
            machine.devices[device.name + suffix] = part

    @property
    def _bind(self) -> Bind:
        machine = self.machine

        def bind(fd: int, address: int, length: int, value: int | None, on: bool) -> None:
            if on or machine.reason is None:  # at the end they go with the VM, all at once
                machine.vm.ioeventfd(fd, address, length, value, deassign=not on)

        return bind

    def _blk(self, name: str, config: DeviceConfig) -> VirtioDevice:
        from pyvmm.devices.virtio.blk import VirtioBlk
        from pyvmm.devices.virtio.blk_config import BlkOptions

        drive = config.get("drive")
        backend = self.machine.drives.get(drive)
        if backend is None:
            raise ConfigError(f"-device {config.name},drive={drive}: there is no such drive: add -drive if=none,id=ID,file=FILE,format=raw")
        logical = _power(config, "logical_block_size", 512, 512, 4096)
        physical = _power(config, "physical_block_size", max(logical, backend.block_size), logical, 2 << 20)
        if backend.size % logical:
            raise ConfigError(f"-device {config.name},logical_block_size={logical}: {backend.name} is no multiple of it long: leave it out")
        write_cache = config.get("write-cache", "auto")
        serials = [each.serial for each in self.machine.config.drives if each.id == drive]
        options = BlkOptions(
            serial=config.get("serial") or "".join(serials),
            queues=config.number("num-queues", 1, 1, MAX_QUEUES),
            queue_size=_power(config, "queue-size", 512, 4, MAX_QUEUE_SIZE),
            logical=logical,
            physical=physical,
            min_io=_multiple(config, "min_io_size", logical, 0xFFFF * logical),
            opt_io=_multiple(config, "opt_io_size", logical, 1 << 30),
            write_cache=None if write_cache == "auto" else config.flag("write-cache", True),
            discard=config.flag("discard", True),
        )
        thread = IoThread(self.machine.crashed)
        self.threads.append(thread)
        return VirtioBlk(name, thread, self.workers.submit, backend, options)

    def _rng(self, name: str, config: DeviceConfig) -> VirtioDevice:
        from pyvmm.devices.virtio.rng import VirtioRng

        clock = self.machine.clock
        limit = config.number("max-bytes", 0, 1, (1 << 63) - 1) or None
        period = config.number("period", 65536, 1, 1 << 31)  # milliseconds
        return VirtioRng(name, self.machine.loop, clock, clock.make_timer, limit, period * 1_000_000)

    def _serial(self, name: str, index: int) -> VirtioDevice:
        from pyvmm.devices.virtio.console import VirtioConsole

        machine = self.machine
        console = self._console(index)
        kinds = {chardev.id: chardev.backend.kind for chardev in machine.config.chardevs}
        size = None
        if kinds.get(next((name for name, each in machine.chardevs.items() if each is console), "")) == "stdio" and os.isatty(0):
            terminal = os.get_terminal_size(0)
            size = terminal.columns, terminal.lines
        device = VirtioConsole(name, machine.loop, console.write, size)
        console.attach(machine.loop, device)
        return device

    def _console(self, index: int) -> Console:
        """What is behind the ``virtconsole`` of the virtio-serial device at ``index``; a console to nowhere if it has none."""
        machine = self.machine
        found = []
        for device in machine.config.devices[index + 1 :]:
            if device.name.startswith("virtio-serial-"):
                break
            if device.name == "virtconsole":
                found.append(device)
        if len(found) > 1:
            raise ConfigError(
                "-device virtconsole: one for each virtio-serial-pci: put another -device virtio-serial-pci before the second"
            )
        if not found:
            from pyvmm.backends.console import Console

            return Console()
        chardev = found[0].get("chardev")
        if chardev not in machine.chardevs:
            raise ConfigError(f"-device virtconsole,chardev={chardev}: there is no such chardev: add -chardev stdio,id=ID")
        return machine.chardevs[chardev]

    # --- the end -----------------------------------------------------------------------------------------------------
    def stop(self, deadline: float) -> None:
        """Ends the run: queues stop, what was begun is finished, threads end. Until ``deadline`` (time.monotonic) at most.

        The vCPUs and the main loop do not run any more.
        """
        for card in self.transports:
            card.core.paused = True
            card.core.device.stop(None)
        for thread in self.threads:
            thread.stop()
        self.workers.stop()
        for thread in self.threads:
            thread.join(max(deadline - monotonic(), 0))
        self.workers.join(max(deadline - monotonic(), 0))

    @property
    def alive(self) -> bool:
        """Whether a thread did not end: the host's disk does not answer."""
        return self.workers.alive or any(thread.alive for thread in self.threads)

    def close(self) -> None:
        """Gives all descriptors back. Nothing while a thread is alive."""
        if self.nics is not None:
            self.nics.detach()
            self.nics = None
        if self.alive:
            self.stop(monotonic() + 1)  # the machine was never run
        if self.alive:
            return
        for card in self.transports:
            card.core.close()
        self.transports = []
        for thread in self.threads:
            thread.close()
        self.threads = []


def _slot(config: DeviceConfig) -> int | None:
    """``addr=SLOT`` or ``addr=SLOT.0``, hexadecimal as QEMU has it; None for any."""
    text = config.get("addr")
    if not text:
        return None
    slot, _, function = text.partition(".")
    try:
        number = int(slot, 16)
    except ValueError:
        number = -1
    if not 0 < number < layout.PCI_SLOTS or function not in ("", "0", "00"):
        raise ConfigError(
            f"-device {config.name},addr={text}: give a slot from 1 to {layout.PCI_SLOTS - 1:x} (hexadecimal), such as addr=5"
        )
    return number


def _power(config: DeviceConfig, key: str, default: int, low: int, high: int) -> int:
    value = config.number(key, default, low, high)
    if value & (value - 1):
        raise ConfigError(f"-device {config.name},{key}={value}: give a power of two from {low} to {high}")
    return value


def _multiple(config: DeviceConfig, key: str, unit: int, high: int) -> int:
    value = config.number(key, 0, 0, high)
    if value % unit:
        raise ConfigError(f"-device {config.name},{key}={value}: give a multiple of {unit} bytes")
    return value
