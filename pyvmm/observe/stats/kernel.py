"""What the kernel counts for a VM and its vCPUs, read without root (api.rst, 4.133: KVM_GET_STATS_FD).

A descriptor of statistics is a file that describes itself: a header, an id, descriptors with names and units, and a block of u64 that is
read again for each look. Which counters there are is the kernel's affair; the texts here are for those that people ask about.
"""

from __future__ import annotations

import os
from struct import Struct, unpack

from pyvmm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.kvm.vm import Vm
    from pyvmm.machine import Machine

    Values = dict[str, int | list[int]]

_HEADER = Struct("<6I")  # kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset
_DESCRIPTOR = Struct("<IhHII")  # kvm_stats_desc: flags, exponent, size, offset, bucket_size; the name follows
_UNIT = 0xF0
_SECONDS = 0x20
_MOST = 4096  # descriptors: a kernel has about fifty

MEANINGS = {
    "exits": "times the processor left the guest",
    "io_exits": "port accesses",
    "mmio_exits": "accesses to addresses without memory, answered in user space",
    "signal_exits": "KVM_RUN ended by a signal",
    "irq_window_exits": "the guest can take an interrupt now",
    "nmi_window_exits": "the guest can take an NMI now",
    "halt_exits": "HLT",
    "irq_exits": "the host's own interrupts came while the guest ran",
    "request_irq_exits": "user space asked for an interrupt window",
    "hypercalls": "VMCALL and VMMCALL",
    "insn_emulation": "instructions the kernel executed in software",
    "insn_emulation_fail": "instructions it could not",
    "irq_injections": "interrupts given to the guest",
    "nmi_injections": "NMIs given to the guest",
    "halt_wakeup": "a sleeping vCPU was woken",
    "halt_attempted_poll": "HLT: waited a little in the kernel before sleeping",
    "halt_successful_poll": "the interrupt came during that wait",
    "halt_poll_success_ns": "time of waits that paid",
    "halt_poll_fail_ns": "time of waits that did not",
    "halt_wait_ns": "time asleep in HLT",
    "pf_taken": "page faults the kernel looked at",
    "pf_fixed": "of these, mapped a page",
    "pf_guest": "of these, the guest's own",
    "pf_emulate": "of these, led to emulation",
    "pf_fast": "of these, mended without the lock",
    "pf_mmio_spte_created": "marks for addresses without memory",
    "tlb_flush": "the TLB was emptied",
    "invlpg": "INVLPG",
    "fpu_reload": "floating-point state loaded on entry",
    "host_state_reload": "host segment state loaded after exits",
    "req_event": "looked for an event before entry",
    "nested_run": "entries into a guest's guest",
    "remote_tlb_flush": "all vCPUs' TLBs emptied",
    "remote_tlb_flush_requests": "asked for that",
    "pages_4k": "4 KiB pages mapped now",
    "pages_2m": "2 MiB pages mapped now",
    "pages_1g": "1 GiB pages mapped now",
}


class KernelStats:
    """One descriptor of KVM_GET_STATS_FD.

    Args:
        fd: owned.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what api.rst says.

    Attributes:
        id: "kvm-PID" or "kvm-PID/vcpu-N".
        nanoseconds: names of the counters of time; the others are plain numbers.
        fields: what ``decode`` wants: name, first word, words, decimal exponent of each.
        length: bytes of ``raw``.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.nanoseconds: set[str] = set()
        self.fields: list[tuple[str, int, int, int]] = []
        try:
            self._describe()
        except BaseException:
            self.close()
            raise

    def _describe(self) -> None:
        header = os.pread(self.fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise ValueError("the kernel's statistics have no header")
        _, name_size, count, id_offset, desc_offset, self._data_offset = _HEADER.unpack(header)
        if count > _MOST or name_size > _MOST:
            raise ValueError(f"the kernel's statistics claim {count} descriptors with names of {name_size} bytes")
        self.id = os.pread(self.fd, name_size, id_offset).partition(b"\0")[0].decode("ascii", "replace")
        step = _DESCRIPTOR.size + name_size
        table = os.pread(self.fd, count * step, desc_offset)
        for at in range(0, len(table) - step + 1, step):
            flags, exponent, size, offset, _ = _DESCRIPTOR.unpack_from(table, at)
            name = table[at + _DESCRIPTOR.size : at + step].partition(b"\0")[0].decode("ascii", "replace")
            if flags & _UNIT == _SECONDS:
                self.nanoseconds.add(name)
                exponent += 9
            self.fields.append((name, offset // 8, max(size, 1), exponent if flags & _UNIT == _SECONDS else 0))
        self.length = 8 * max((first + words for _, first, words, _ in self.fields), default=0)

    def read(self) -> Values:
        """The counters now, in the kernel's order: numbers, and lists for histograms; times in nanoseconds. From any thread."""
        return decode(self.fields, self.raw())

    def raw(self) -> bytes:
        """The same as the kernel has it, for ``decode``: 2 us."""
        return os.pread(self.fd, self.length, self._data_offset)

    def close(self) -> None:
        """Closes the descriptor; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def decode(fields: Iterable[tuple[str, int, int, int]], raw: bytes) -> Values:
    """Counters of ``KernelStats.raw``; a block cut short gives what is there."""
    words = unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])
    found: Values = {}
    for name, first, count, exponent in fields:
        values = list(words[first : first + count])
        if count == 1 and values:
            found[name] = values[0] * 10**exponent if exponent > 0 else values[0]
        elif values:
            found[name] = values
    return found


def kernel_stats(machine: Machine) -> list[KernelStats]:
    """The VM's, then each vCPU's; [] on a kernel without them (before Linux 5.14)."""
    found: list[KernelStats] = []
    owners: list[Vm | Vcpu] = [machine.vm, *machine.vcpus]
    try:
        for owner in owners:
            found.append(KernelStats(owner.stats_fd()))
    except (KvmError, OSError, ValueError):
        for each in found:
            each.close()
        return []
    return found
