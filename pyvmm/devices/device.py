"""The device contract, and register tables that name what a device has.

A device sees offsets, never addresses; gets its outputs (interrupt line, byte sink, stop request, clock, timer) in its
constructor; keeps everything that a snapshot must hold in ``state``, plain data; knows no machine and no bus.

Calls come with the machine lock held, from a vCPU thread or the I/O loop: a device needs no lock of its own, and must
not block.
"""

from __future__ import annotations

from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Device(Protocol):
        """What a bus asks of whatever is mapped on it."""

        name: str
        state: Any

        def read(self, offset: int, size: int) -> int:
            """The value of ``size`` bytes at ``offset`` (0 <= value < 1 << 8*size). Never raises for a guest's doing."""

        def write(self, offset: int, size: int, value: int) -> None:
            """Takes ``size`` bytes. Never raises for a guest's doing."""

        def reset(self) -> None:
            """Back to the state after power-on; outputs (lines, timers) too."""

    class Timer(Protocol):
        """A one-shot alarm that calls back with the machine lock held."""

        def arm(self, deadline_ns: int) -> None:
            """(Re-)arms for ``clock() >= deadline_ns``."""

        def cancel(self) -> None:
            """Disarms; harmless when not armed."""

    Clock = Callable[[], int]
    """Monotonic nanoseconds."""
    MakeTimer = Callable[[Callable[[], None]], Timer]
    """Makes a Timer from the function to call."""


class Field(FrozenRecord):
    """A bit field of a register: bits ``high..low``, a short name, and in words what it means."""

    name: str
    low: int
    high: int
    text: str = ""


class Register(FrozenRecord):
    """One register of a device: serves the tracer's names, the debugger's decoding and the documentation.

    Fields:
        name: the data sheet's name, e.g. "LSR".
        offset, size: bytes, relative to the device's base.
        access: "r", "w" or "rw". Two registers may share an offset with "r" and "w".
        reset: value after reset.
        fields: bit fields, any order.
        section: where it is specified.
        when: condition in words when registers share an offset ("DLAB=1"), else "".
    """

    name: str
    offset: int
    size: int
    access: str
    reset: int = 0
    fields: tuple[Field, ...] = ()
    section: str = ""
    when: str = ""


def bits(*spec: str) -> tuple[Field, ...]:
    """Makes Fields from ``"NAME high:low text"`` or ``"NAME bit text"``."""
    fields = []
    for line in spec:
        name, where, *text = line.split(None, 2)
        high, _, low = where.partition(":")
        fields.append(Field(name=name, high=int(high), low=int(low or high), text=text[0] if text else ""))
    return tuple(fields)


def decode(register: Register, value: int) -> str:
    """A register value in words: ``LSR=60 TEMT THRE`` (single bits that are set) and ``FIELD=n`` (wider fields)."""
    words = [f"{register.name}={value:0{2 * register.size}x}"]
    for field in sorted(register.fields, key=lambda field: -field.high):
        part = value >> field.low & (1 << field.high - field.low + 1) - 1
        if field.high == field.low:
            words += [field.name] if part else []
        else:
            words.append(f"{field.name}={part:x}")
    return " ".join(words)
