"""Every error pyvmm raises on purpose.

The command line turns each into one line on stderr and an exit status (see ``pyvmm.status``); anything else
that escapes is a bug in pyvmm.
"""

from __future__ import annotations

import errno as _errno


class PyvmmError(Exception):
    """Base of all errors with a message fit for a user: one line, names the problem and the fix."""


class ConfigError(PyvmmError):
    """The command line or a Config asks for something impossible (exit status 2)."""


class ImageError(PyvmmError):
    """A guest image, initrd or disk cannot be used: missing, truncated, corrupt, too large (exit status 2)."""


class GuestFault(PyvmmError):
    """A guest physical address range lies outside guest RAM. Devices catch it; it never kills the VMM.

    Args:
        gpa: first guest physical address of the refused range.
        length: its length in bytes.
    """

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"guest physical range {gpa:#x}+{length:#x} is not inside guest RAM")
        self.gpa = gpa
        self.length = length


class HostError(PyvmmError):
    """The host lacks something pyvmm needs: /dev/kvm missing or unreadable, no memory (exit status 2)."""


class KvmError(PyvmmError):
    """An ioctl on one of the three KVM descriptors failed.

    Args:
        ioctl: the ioctl's name as in <linux/kvm.h>, e.g. ``KVM_SET_SREGS``.
        errno: the host's errno.
        hint: what usually causes this errno from this ioctl, and what to do.
    """

    def __init__(self, ioctl: str, errno: int, hint: str = "") -> None:
        name = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{ioctl} failed with {name}" + (f": {hint}" if hint else ""))
        self.ioctl = ioctl
        self.errno = errno
        self.hint = hint


class UnhandledExit(PyvmmError):
    """KVM_RUN returned an exit reason nobody has a handler for."""
