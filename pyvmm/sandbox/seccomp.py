"""A system call filter, assembled in Python: classic BPF over struct seccomp_data (Documentation/userspace-api/seccomp_filter.rst).

The filter runs at every system call. The kernel keeps a bitmap of calls that are allowed whatever their arguments are, which then cost
nothing more; ``ioctl``, the one call of the hot path, depends on its request, so its test comes first.
"""

from __future__ import annotations

from struct import pack

from pyvmm.errors import HostError
from pyvmm.kvm.native import addressof, c_char, c_int, function, get_errno, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Tests = list[tuple[int, int, tuple[int, ...]]]

AUDIT_ARCH_X86_64 = 0xC000_003E
_X32 = 0x4000_0000  # bit of the numbers of the x32 ABI, another table of calls
# struct seccomp_data: nr, arch, instruction_pointer, args[6]; of an argument the low half comes first
_NR, _ARCH, _ARGS = 0, 4, 16
# <linux/bpf_common.h>
_LD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
EPERM, ENOSYS = 1, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SYS_SECCOMP, _GET_ACTION_AVAIL = 317, 2
_MOST = 4096  # instructions: BPF_MAXINSNS

Program = list[tuple[int, int, int, int]]  # code, jt, jf, k


class Rules:
    """What a process may call. Numbers are those of x86-64; every other call returns EPERM.

    Args:
        allow: whatever the arguments are.
        kill: ends the process: calls that only somebody else's code would make.
        missing: answered with ENOSYS, for the C library to take the older way, whose arguments can be looked at.
        masked: call -> (argument, mask, values): allowed where argument & mask is one of the values; looked at first, in order.
    """

    def __init__(self, allow: Iterable[int], kill: Iterable[int], missing: Iterable[int], masked: Mapping[int, Tests]) -> None:
        self.allow = sorted(set(allow) - set(masked))
        self.kill = sorted(set(kill))
        self.missing = sorted(set(missing))
        self.masked = masked

    def program(self) -> Program:
        """The filter."""
        code: Program = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, AUDIT_ARCH_X86_64), (_RET, 0, 0, KILL), (_LD, 0, 0, _NR)]
        for number, tests in self.masked.items():
            block = _masked(tests)
            code += [(_JEQ, 0, len(block), number), *block]
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, KILL)]
        for numbers, verdict in ((self.allow, ALLOW), (self.kill, KILL), (self.missing, _ERRNO | ENOSYS)):
            for number in numbers:
                code += [(_JEQ, 0, 1, number), (_RET, 0, 0, verdict)]
        return [*code, (_RET, 0, 0, _ERRNO | EPERM)]


def _masked(tests: Tests) -> Program:
    """Leaves with a verdict: reached when the number has matched, so the accumulator need not be kept."""
    code: Program = []
    for argument, mask, values in tests:
        code.append((_LD, 0, 0, _ARGS + 8 * argument))
        if mask != 0xFFFF_FFFF:
            code.append((_AND, 0, 0, mask))
        for value in values:
            code += [(_JEQ, 0, 1, value), (_RET, 0, 0, ALLOW)]
    return [*code, (_RET, 0, 0, _ERRNO | EPERM)]


def available() -> bool:
    """Whether this kernel has filters that may kill a process."""
    action = (u64 * 1)(KILL)
    return int(function("syscall")(_SYS_SECCOMP, _GET_ACTION_AVAIL, 0, action)) == 0


def install(program: Program) -> None:
    """Holds this thread, and all it starts, to a filter for good. PR_SET_NO_NEW_PRIVS must be set.

    Raises:
        HostError: the kernel refuses.
    """
    raw = b"".join(pack("<HBBI", *each) for each in program)
    assert len(program) <= _MOST
    area = (c_char * len(raw)).from_buffer_copy(raw)
    fprog = (u64 * 2)(len(program), addressof(area))  # struct sock_fprog: u16 len, padding, pointer
    prctl = function("prctl", c_int, u64, u64, u64, u64)
    if prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, addressof(fprog), 0, 0):
        from os import strerror

        why = strerror(get_errno())
        raise HostError(f"-sandbox on: the kernel refuses the system call filter: {why}; -sandbox on,seccomp=off goes without")
