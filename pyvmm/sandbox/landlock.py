"""Landlock: the process gives up all files but those named (Documentation/userspace-api/landlock.rst).

What is open already is not affected; only opening anew is. It needs no privilege and holds for this thread and those it starts.
"""

from __future__ import annotations

import os
from struct import pack

from pyvmm.errors import HostError
from pyvmm.kvm.native import c_char, c_int, function, get_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls
_VERSION = 1  # flag of create_ruleset: which ABI
_PATH_BENEATH, _NET_PORT = 1, 2  # rule types
# Rights to files, and the ABI that has the first of them: what a newer kernel could restrict as well, an older one must not be asked
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 15
_TRUNCATE = 1 << 14
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, IOCTL_DEV))
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | IOCTL_DEV  # the others are about directories
_TCP = (4, 0b11)  # bind, connect
_SCOPES = (6, 0b11)  # abstract UNIX sockets, signals: only inside
READ, WRITE = READ_FILE | READ_DIR, READ_FILE | WRITE_FILE | IOCTL_DEV


def abi() -> int:
    """Which version this kernel has; 0 for none, or when it was not enabled at boot."""
    return max(int(function("syscall")(_CREATE_RULESET, None, 0, _VERSION)), 0)


def _syscall(what: str, number: int, *arguments: object) -> int:
    result = int(function("syscall")(number, *arguments))
    if result < 0:
        raise HostError(f"-sandbox on: Landlock, {what}: {os.strerror(get_errno())}; -sandbox on,landlock=off goes without")
    return result


def restrict(paths: Mapping[str, int], network: bool) -> int:
    """Gives up everything but these paths, for good. PR_SET_NO_NEW_PRIVS must be set.

    Args:
        paths: file, or directory with all beneath -> READ or WRITE; those that are not there are passed over.
        network: whether TCP connections may still be made and taken (what is connected already may stay).

    Returns:
        The ABI in force.

    Raises:
        HostError: the kernel has no Landlock, or refuses.
    """
    version = abi()
    if not version:
        raise HostError("-sandbox on: this kernel has no Landlock (or lacks landlock in lsm=); -sandbox on,landlock=off goes without")
    rights = _sum(_FILE_RIGHTS, version)
    fields = [rights, 0 if network else _sum((_TCP,), version), _sum((_SCOPES,), version)]
    size = 8 if version < 4 else 16 if version < 6 else 24  # struct landlock_ruleset_attr has grown
    attributes = _area(pack("<3Q", *fields)[:size])
    ruleset = _syscall("ruleset", _CREATE_RULESET, attributes, c_int(size), 0)
    try:
        for path, allowed in paths.items():
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                kept = allowed & rights if os.path.isdir(path) else allowed & rights & _OF_FILES
                _syscall(path, _ADD_RULE, ruleset, _PATH_BENEATH, _area(pack("<Qi", kept, fd)), 0)
            finally:
                os.close(fd)
        _syscall("restrict", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _sum(parts: Iterable[tuple[int, int]], version: int) -> int:
    return sum(bits for since, bits in parts if since <= version)


def _area(data: bytes) -> object:
    return (c_char * len(data)).from_buffer_copy(data)


