"""Events that no register access is: interrupts, doorbells, requests, packets, configuration cycles.

Each hook puts a function in front of one of the object's own, as an attribute of that one object, and gives back what removes it.
"""

from __future__ import annotations

from time import perf_counter_ns

from pyvmm.devices.pci.msix import MsiX
from pyvmm.observe.trace import accesses
from pyvmm.observe.trace.events import HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.trace.events import Chosen

    Emit = Callable[[str, str], None]
    Undo = Callable[[], None]

_REQUESTS = ("try_read", "read", "write", "flush", "discard_range", "write_zeroes")


def attach(machine: Machine, chosen: Chosen, emit: Emit) -> list[Undo]:
    """Every hook that somebody wants. Machine lock held."""
    undo: list[Undo] = []
    if "irq_line" in chosen:
        undo.append(_lines(machine, emit))
    functions = machine.pci.functions.values()
    if chosen.any("pci_config_"):
        undo += [_configuration(function, chosen, emit) for function in functions]
    if "irq_msi" in chosen:
        parts = {id(bar.device): bar.device for function in functions for bar in function.bars}
        undo += [_messages(part, emit) for part in parts.values() if isinstance(part, MsiX)]
    cards = machine.cards
    for transport in cards.transports if cards is not None else ():
        undo += _virtio(transport.core, chosen, emit)
    for card in cards.nics.cards.values() if cards is not None and cards.nics is not None else ():
        undo += _packets(card, chosen, emit)
    return undo


def replace(owner: Any, name: str, function: Callable[..., Any]) -> Undo:
    """Puts ``function`` in place of a method of this one object."""
    own = name in getattr(owner, "__dict__", (name,))  # an attribute already: another tracer's, or a slot
    before = getattr(owner, name)
    setattr(owner, name, function)

    def undo() -> None:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)

    return undo


def _lines(machine: Machine, emit: Emit) -> Undo:
    lines = machine.lines.lines.values()
    inner = {line.gsi: line.drive for line in lines}

    def drive(gsi: int, level: int) -> None:
        emit("irq_line", f"GSI {gsi} {'high' if level else 'low'}")
        inner[gsi](gsi, level)

    for line in lines:
        line.drive = drive

    def undo() -> None:
        for line in lines:
            line.drive = inner[line.gsi]

    return undo


def _messages(msix: MsiX, emit: Emit) -> Undo:
    trigger = msix.trigger

    def traced(vector: int) -> None:
        if vector < msix.vectors:
            at = 16 * vector
            address, data = (int.from_bytes(msix.state.table[at + low : at + high], "little") for low, high in ((0, 8), (8, 12)))
            emit("irq_msi", f"{msix.function.name} vector {vector}: {data:#x} to {address:#x}")
        trigger(vector)

    return replace(msix, "trigger", traced)


def _configuration(function: Any, chosen: Chosen, emit: Emit) -> Undo:
    read, write = function.read_config, function.write_config

    def tell(offset: int, size: int, value: int, is_write: bool) -> None:
        for event, words in accesses.of_table(HEADER, offset, size, value, is_write, {}):
            if event in chosen:
                emit(event, f"{function.name} {words}")

    def traced_read(offset: int, size: int) -> int:
        value: int = read(offset, size)
        tell(offset, size, value, False)
        return value

    def traced_write(offset: int, size: int, value: int) -> None:
        tell(offset, size, value, True)
        write(offset, size, value)

    undo = [replace(function, "read_config", traced_read), replace(function, "write_config", traced_write)]

    def both() -> None:
        for each in reversed(undo):
            each()

    return both


def _virtio(core: Any, chosen: Chosen, emit: Emit) -> list[Undo]:
    device = core.device
    undo = []

    def hook(owner: Any, method: str, event: str, words: Callable[..., str]) -> None:
        inner = getattr(owner, method)

        def traced(*arguments: Any) -> Any:
            emit(event, f"{device.name} {words(*arguments)}".rstrip())
            return inner(*arguments)

        if event in chosen:
            undo.append(replace(owner, method, traced))

    hook(
        device,
        "start",
        "virtio_start",
        lambda queues, features: f"{sum(each is not None for each in queues)} queues, features {features:#x}",
    )
    hook(device, "serve", "virtio_serve", lambda index: f"queue {index}")
    hook(device, "reset", "virtio_reset", lambda: "")
    hook(device.signals, "queue", "virtio_interrupt", lambda index: f"queue {index}")
    hook(device.signals, "broken", "virtio_broken", lambda text: text)
    if "virtio_blk_io" in chosen and hasattr(device, "disk"):
        undo.append(_requests(device, emit))
    return undo


class _Backend:
    """A disk's file, with an ear on it."""

    def __init__(self, inner: Any, heard: Callable[[str, tuple[Any, ...], int, str], None]) -> None:
        self._inner = inner
        for name in _REQUESTS:
            setattr(self, name, _timed(name, getattr(inner, name), heard))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _timed(name: str, inner: Callable[..., Any], heard: Callable[[str, tuple[Any, ...], int, str], None]) -> Callable[..., Any]:
    def request(*arguments: Any) -> Any:
        begun, outcome = perf_counter_ns(), ""
        try:
            result = inner(*arguments)
            if name == "try_read" and not result:
                outcome = "would have to wait"
            return result
        except OSError as error:
            outcome = f"failed: {error.strerror}"
            raise
        finally:
            heard(name, arguments, perf_counter_ns() - begun, outcome)

    return request


def _requests(device: Any, emit: Emit) -> Undo:
    backend = device.backend

    def heard(name: str, arguments: tuple[Any, ...], spent: int, outcome: str) -> None:
        where = ""
        if arguments:
            length = arguments[1] if isinstance(arguments[1], int) else getattr(arguments[1], "length", None)
            length = sum(len(view) for view in arguments[1]) if length is None else length
            where = f" {length} bytes at {arguments[0]:#x}"
        emit("virtio_blk_io", f"{device.name} {name}{where}: {spent / 1e3:.0f} us{f', {outcome}' if outcome else ''}")

    device.backend = _Backend(backend, heard)

    def undo() -> None:
        device.backend = backend

    return undo


def _packets(card: Any, chosen: Chosen, emit: Emit) -> list[Undo]:
    if type(card).__name__ == "E1000":
        from pyvmm.devices.e1000 import trace as e1000_trace

        return [e1000_trace.attach(card, lambda line: emit("e1000_packet", line))] if "e1000_packet" in chosen else []
    from pyvmm.devices.virtio import net_trace

    return [net_trace.attach(card, lambda line: emit("virtio_net_packet", line))] if "virtio_net_packet" in chosen else []
