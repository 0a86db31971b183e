"""Users, capabilities and limits given up for good (capabilities(7), prctl(2), setrlimit(2))."""

from __future__ import annotations

import os
import resource
from struct import pack, unpack

from pyvmm.errors import ConfigError, HostError
from pyvmm.kvm.native import c_char, c_int, function, get_errno, u64

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAPBSET_READ, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 23, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPGET, _CAPSET, _VERSION_3 = 125, 126, 0x2008_0522  # system calls; struct __user_cap_header_struct.version
_SETPCAP = 8


def no_new_privileges() -> None:
    """No program this process could start gains anything by set-user-id or file capabilities. HostError."""
    _prctl("no new privileges", _PR_SET_NO_NEW_PRIVS, 1)


def limits() -> None:
    """No core dump: it would hold the guest's memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl("no core dumps", _PR_SET_DUMPABLE, 0)


def drop_capabilities() -> None:
    """Gives up all there are, also those a later program could have. Root is then a user like others. HostError."""
    if not _effective():
        return
    if _effective() >> _SETPCAP & 1:
        last = 0
        while _raw_prctl(_PR_CAPBSET_READ, last) >= 0:
            _prctl("capability bounds", _PR_CAPBSET_DROP, last)
            last += 1
    _prctl("ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (c_char * 8).from_buffer_copy(pack("<Ii", _VERSION_3, 0))
    none = (c_char * 24)()
    if function("syscall")(_CAPSET, header, none):
        raise HostError(f"-sandbox on: capabilities cannot be dropped: {os.strerror(get_errno())}")


def _effective() -> int:
    """The capabilities this thread has and may use."""
    header = (c_char * 8).from_buffer_copy(pack("<Ii", _VERSION_3, 0))
    data = (c_char * 24)()  # two times struct __user_cap_data_struct: effective, permitted, inheritable
    if function("syscall")(_CAPGET, header, data):
        return 0
    low, _, _, high, _, _ = unpack("<6I", bytes(data))
    return int(low | high << 32)


class User:
    """Whom to run as: ``-runas NAME`` or ``-runas UID:GID``.

    Raises:
        ConfigError: there is no such user, or this process may not become him.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        uid, colon, gid = text.partition(":")
        if colon and uid.isdecimal() and gid.isdecimal() and max(int(uid), int(gid)) < (1 << 32) - 1:
            self.uid, self.gid, self.groups = int(uid), int(gid), [int(gid)]
        else:
            import pwd

            try:
                entry = pwd.getpwnam(text)
            except KeyError:
                raise ConfigError(f"-runas {text}: no such user: give a user's name, or UID:GID as numbers") from None
            self.uid, self.gid, self.groups = entry.pw_uid, entry.pw_gid, os.getgrouplist(text, entry.pw_gid)
        if os.geteuid() and (self.uid, self.gid) != (os.geteuid(), os.getegid()):
            raise ConfigError(f"-runas {text}: only root may become somebody else")

    def become(self) -> None:
        """Changes over; there is no way back. HostError."""
        if os.geteuid():
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise HostError(f"-runas {self.text}: {error.strerror}") from None
        if os.geteuid() and 0 in os.getresuid():
            raise HostError(f"-runas {self.text}: root could be had back")


def change_root(path: str) -> None:
    """``-chroot``: the file system is what is under ``path``. ConfigError."""
    try:
        os.chroot(path)
        os.chdir("/")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"-chroot {path}: {why}; it takes root, and a directory (an empty one will do)") from None


def _raw_prctl(option: int, value: int) -> int:
    return int(function("prctl", c_int, u64, u64, u64, u64)(option, value, 0, 0, 0))


def _prctl(what: str, option: int, value: int) -> None:
    if _raw_prctl(option, value) < 0:
        raise HostError(f"-sandbox on: {what}: {os.strerror(get_errno())}")
