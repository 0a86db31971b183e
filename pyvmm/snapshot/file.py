"""Snapshots as files.

    8 bytes   "pyvmmsnp"
    4         version, little-endian, as the other numbers
    4         CRC-32 of all that follows
    8         length of the head
    head      plain data (plain.py): everything but memory, and ``runs``: [first page, number of pages, ...], ascending
    the rest  these pages one after the other, zlib; pages of zeros are in none

A file is somebody's: whatever is in it, reading it ends in a Snapshot or in a one-line ConfigError, with no more memory used than the
machine it is for has.
"""

from __future__ import annotations

import os
import zlib
from struct import Struct

from pyvmm.errors import ConfigError, KvmError
from pyvmm.kvm.state import VcpuState, VmState
from pyvmm.layout import PAGE
from pyvmm.snapshot import capture
from pyvmm.snapshot.capture import Snapshot
from pyvmm.snapshot.pages import ZERO, Image
from pyvmm.snapshot.plain import Misfit, pack, plain, shaped, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine import Machine

MAGIC = b"pyvmmsnp"
VERSION = 1
_START = Struct("<8sIIQ")
_HEAD_MAX = 64 << 20  # bytes
_CHUNK = 64 << 10
_LEVEL = 1  # zlib: 4 times the speed of its default, for a tenth more


def write(snapshot: Snapshot, path: str) -> None:
    """Puts a snapshot into a file, which is complete or not there.

    Raises:
        ConfigError: the file cannot be written.
    """
    pages = {number: page for number, page in snapshot.memory.whole().items() if page != ZERO}
    numbers = sorted(pages)
    runs: list[int] = []
    for number in numbers:
        if runs and runs[-2] + runs[-1] == number:
            runs[-1] += 1
        else:
            runs += (number, 1)
    fields = {name: plain(value) for name, value in snapshot if name != "memory"}
    head = pack({**fields, "runs": runs})
    compressor = zlib.compressobj(_LEVEL)
    body = [head, *(compressor.compress(pages[number]) for number in numbers), compressor.flush()]
    check = 0
    for part in body:
        check = zlib.crc32(part, check)
    temporary = f"{path}.new"
    try:
        with open(temporary, "wb") as file:
            file.write(_START.pack(MAGIC, VERSION, check, len(head)))
            file.writelines(body)
        os.replace(temporary, path)
    except OSError as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise ConfigError(f"cannot write the snapshot {path}: {error.strerror}") from None


def load(machine: Machine, path: str) -> Snapshot:
    """Reads a file and puts the snapshot into a machine, of the same configuration, that has not run yet. Returns it.

    Raises:
        ConfigError: no such file, damaged, of another version or another machine.
    """
    snapshot = read(machine, path)
    try:
        machine.load(snapshot)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except KvmError as error:
        raise ConfigError(f"{path}: the kernel does not take the snapshot ({error}): take it again, on this host") from None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a number no device has ever had
        raise ConfigError(f"{path}: the snapshot is damaged ({type(error).__name__}: {error})") from None
    return snapshot


def read(machine: Machine, path: str) -> Snapshot:
    """The snapshot in a file, which fits ``machine`` as far as can be told before the kernel sees it. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            start = file.read(_START.size)
            if len(start) < _START.size or not start.startswith(MAGIC):
                raise ConfigError(f"{path}: this is no snapshot of pyvmm")
            _, version, check, length = _START.unpack(start)
            if version != VERSION:
                raise ConfigError(f"{path}: a snapshot of version {version}, this pyvmm reads {VERSION}: use the pyvmm that made it")
            body = file.read(_HEAD_MAX + machine.memory.size + (machine.memory.size >> 8))  # zlib adds a thousandth at most
            if file.read(1):
                raise ConfigError(f"{path}: the snapshot is too large for this machine: give it the -m it was taken with")
    except OSError as error:
        raise ConfigError(f"cannot read the snapshot {path}: {error.strerror}") from None
    if zlib.crc32(body) != check or length > len(body):
        raise ConfigError(f"{path}: the snapshot is damaged (its check sum is wrong): take it again")
    try:
        return _decode(machine, memoryview(body), length)
    except (Misfit, zlib.error, RecursionError) as error:
        raise ConfigError(f"{path}: the snapshot is damaged: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _decode(machine: Machine, body: memoryview, length: int) -> Snapshot:
    head = unpack(bytes(body[:length]))
    if not isinstance(head, dict) or not isinstance(head.get("fingerprint"), dict):
        raise Misfit("it has no head")
    capture.check(machine, head["fingerprint"])
    runs = head.pop("runs", None)
    like = _like(machine)
    if head.keys() | {"memory"} != {name for name, _ in like}:
        raise Misfit("its head has other fields")
    values: dict[str, Any] = {"fingerprint": head["fingerprint"], "devices": head["devices"]}
    for name, each in like:
        if name not in ("fingerprint", "devices", "memory", "notes"):
            values[name] = shaped(each, head[name], name)
    if not isinstance(head["notes"], list) or not all(type(note) is str for note in head["notes"]):
        raise Misfit("notes are no texts")
    _sizes(like, values)
    return Snapshot(**values, notes=head["notes"], memory=_memory(machine, runs, body[length:]))


def _like(machine: Machine) -> Snapshot:
    """A snapshot of this machine's shape."""
    from pyvmm.kvm import state as kvm_state

    with machine.quiesce():
        vcpus = [kvm_state.get(vcpu) for vcpu in machine.vcpus]
        vm = kvm_state.get_vm(machine.vm)
    return Snapshot(fingerprint={}, clock=0, wall=0, asleep=False, vcpus=vcpus, vm=vm, devices={}, memory=Image({}), notes=[])


def _sizes(like: Snapshot, values: dict[str, Any]) -> None:
    """The kernel reads structures of fixed sizes."""
    here: list[VcpuState | VmState] = [*like.vcpus, like.vm]
    there: list[VcpuState | VmState] = [*values["vcpus"], values["vm"]]
    for one, other in zip(here, there, strict=True):
        for name, each in one:
            value = getattr(other, name)
            if isinstance(each, bytes) and len(value) != len(each):
                raise Misfit(f"{name} has another size")
            if type(each) is int and (type(value) is not int or not 0 <= value < 1 << 64):
                raise Misfit(f"{name} is out of range")
            if isinstance(each, dict) and not all(type(word) is int and 0 <= word < 1 << 64 for word in value.values()):
                raise Misfit(f"{name} are out of range")
    if any(len(chip) != 512 for chip in values["vm"].chips) or len(values["vm"].chips) != len(like.vm.chips):
        raise Misfit("interrupt controllers have another size")
    if any(type(values[name]) is not int or not 0 <= values[name] < 1 << 63 for name in ("clock", "wall")):
        raise Misfit("a clock is out of range")


def _memory(machine: Machine, runs: Any, data: memoryview) -> Image:
    if not isinstance(runs, list) or len(runs) & 1 or any(type(each) is not int for each in runs):
        raise Misfit("its list of pages is none")
    ram = [(region.gpa // PAGE, region.end // PAGE) for region in machine.memory.regions]
    numbers: list[int] = []
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        behind = numbers[-1] if numbers else -1
        if first <= behind or count <= 0 or not any(low <= first and first + count <= high for low, high in ram):
            raise Misfit("it has pages that are not in RAM")
        numbers.extend(range(first, first + count))
    contents = _unpacked(data, len(numbers) * PAGE)
    return Image({number: contents[at * PAGE : (at + 1) * PAGE] for at, number in enumerate(numbers)})


def _unpacked(data: memoryview, length: int) -> bytes:
    """``length`` bytes and no more, however much is in there."""
    unpacker = zlib.decompressobj()
    parts: list[bytes] = []
    left = length
    for at in range(0, len(data), _CHUNK):
        if not left:
            break
        part = unpacker.decompress(data[at : at + _CHUNK], left)
        parts.append(part)
        left -= len(part)
    if left:
        raise Misfit("it has too few pages")
    return b"".join(parts)
