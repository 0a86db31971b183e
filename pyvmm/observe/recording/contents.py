"""What a recording says of a machine: which it is, and its whole state at a moment."""

from __future__ import annotations

from struct import calcsize, unpack

from pyvmm.errors import GuestFault
from pyvmm.layout import PAGE as PAGE_SIZE
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pyvmm.observe.explain.layout import States

    class Pages(Protocol):
        """Where pages come from: ``reader.Recording``."""

        header: Header

        def page(self, number: int, keyframe: int) -> bytes:
            """A page (gpa / 4096) at a keyframe."""


CONSOLE_KEPT = 16 << 10  # bytes of console output that a state has


class Header(Record):
    """The machine that was recorded.

    Fields:
        pyvmm: version of the recorder.
        name: of the guest: catalogue name or file.
        command: the command line.
        vcpus: how many.
        ram: [gpa, bytes] of each piece.
        cpu: processor model as given; "" for the host's.
        host: the host's processor and kernel, for people.
        kvm: what kind of KVM ran it: ``kvm.kind``'s words.
        emulates_ring0: whether that one interprets ring 0: ``explain.who`` wants to know.
        started: time of day, nanoseconds since 1970.
        config: ``Config`` as plain data.
    """

    pyvmm: str
    name: str
    command: list[str]
    vcpus: int
    ram: list[list[int]]
    cpu: str
    host: str
    kvm: str
    emulates_ring0: bool
    started: int
    config: dict[str, Any]


HEADER = Header(
    pyvmm="", name="", command=[""], vcpus=1, ram=[[0, 0]], cpu="", host="", kvm="", emulates_ring0=False, started=0, config={}
)  # fmt: skip


class Keyframe(Record):
    """The whole state behind an exit; the body of a KEYF chunk.

    Fields:
        time: nanoseconds since the recording began.
        registers: for each vCPU kvm_regs, kvm_sregs, kvm_vcpu_events as at its last exit; b"" while it has had none.
        devices: name -> state, of ``layout.states``.
        layout: ``Layout`` as plain data.
        console: what the first serial port has sent, its last bytes.
        exact: from here to the next keyframe each exit has the memory that changed (``Entry.patches``).
        vcpus: vCPU -> ``kvm.state.VcpuState``, as far as it could be had.
        vm: ``kvm.state.VmState``.
    """

    time: int
    registers: list[bytes]
    devices: dict[str, Any]
    layout: dict[str, Any]
    console: bytes
    exact: bool
    vcpus: dict[int, Any]
    vm: dict[str, Any]


KEYFRAME = Keyframe(
    time=0, registers=[b""], devices={}, layout={}, console=b"", exact=False, vcpus={}, vm={}
)  # fmt: skip


class State(Record):
    """A machine behind an exit. The dicts are not to be changed.

    Fields:
        exit: which.
        time: nanoseconds since the recording began.
        registers, devices, layout, console: as in ``Keyframe``.
        memory: guest memory, see there.
        keyframe: the one that was started from; its vCPUs' and VM's state are of its own exit, ``keyframe_exit``.
    """

    exit: int
    time: int
    registers: list[bytes]
    devices: States
    layout: dict[str, Any]
    console: bytes
    memory: RecordedMemory
    keyframe: Keyframe
    keyframe_exit: int


class RecordedMemory:
    """Guest memory at a moment (``paging.Memory``): that of a keyframe, with what exits have changed since where that is recorded.

    Attributes:
        exit: behind which exit it is exact.
    """

    def __init__(self, source: Pages, keyframe: int, exit: int) -> None:
        self._source = source
        self._keyframe = keyframe
        self.exit = exit
        self._patches: dict[int, list[tuple[int, bytes]]] = {}

    def on(self, exit: int, changes: list[tuple[int, int, bytes]]) -> RecordedMemory:
        """That of a later exit, with what has changed until then in order."""
        later = RecordedMemory(self._source, self._keyframe, exit)
        patches = later._patches = {page: list(pieces) for page, pieces in self._patches.items()}
        for page, first, data in changes:
            patches.setdefault(page, []).append((first, data))
        return later

    def contains(self, gpa: int, length: int) -> bool:
        """Whether the whole range is RAM."""
        return length >= 0 and any(first <= gpa and gpa + length <= first + size for first, size in self._source.header.ram)

    def read(self, gpa: int, length: int) -> bytes:
        """A copy. GuestFault outside RAM; Damaged."""
        if not self.contains(gpa, length):
            raise GuestFault(gpa, length)
        pieces = []
        while length:
            first = gpa % PAGE_SIZE
            piece = min(length, PAGE_SIZE - first)
            pieces.append(self.page(gpa // PAGE_SIZE)[first : first + piece])
            gpa, length = gpa + piece, length - piece
        return b"".join(pieces)

    def page(self, number: int) -> bytes:
        """One page (gpa / 4096). Damaged."""
        data = self._source.page(number, self._keyframe)
        changed = self._patches.get(number)
        if changed is None:
            return data
        patched = bytearray(data)
        for first, piece in changed:
            patched[first : first + len(piece)] = piece
        return bytes(patched)

    def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
        """``struct.unpack`` of the bytes there. GuestFault outside RAM; Damaged."""
        return unpack(layout, self.read(gpa, calcsize(layout)))
