"""libslirp's interface for ctypes: structures, functions, and how to find the library. From libslirp.h, 4.1 to 4.9.

Versions 1 and 4 of its SlirpConfig are known here; later libraries take them too, and ask for nothing more.
"""

from __future__ import annotations

import ctypes
import os
import socket
from ctypes import PYFUNCTYPE, c_bool, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint8, c_uint32, c_void_p

from pyvmm.backends.stderr import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.net.user import UserNetwork

_GLIB_LINES = 5

_Address6 = c_uint32 * 4
SendPacket = PYFUNCTYPE(c_ssize_t, c_void_p, c_size_t, c_void_p)
GuestError = PYFUNCTYPE(None, c_void_p, c_void_p)
Clock = PYFUNCTYPE(c_int64)  # the argument is left where it is, in a register: a function in C can be called as it stands
TimerNew = PYFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p)
TimerFree = PYFUNCTYPE(None, c_void_p, c_void_p)
TimerMod = PYFUNCTYPE(None, c_void_p, c_int64, c_void_p)
PollFd = PYFUNCTYPE(None, c_int, c_void_p)
Notify = PYFUNCTYPE(None, c_void_p)
InitCompleted = PYFUNCTYPE(None, c_void_p, c_void_p)
TimerNewOpaque = PYFUNCTYPE(c_void_p, c_int, c_void_p, c_void_p)
AddPoll = PYFUNCTYPE(c_int, c_int, c_int, c_void_p)
GetEvents = PYFUNCTYPE(c_int, c_int, c_void_p)
Timer = PYFUNCTYPE(None, c_void_p)
Log = PYFUNCTYPE(None, c_char_p, c_int, c_char_p, c_void_p)


class Callbacks(ctypes.Structure):
    _fields_ = [
        ("send_packet", SendPacket),
        ("guest_error", GuestError),
        ("clock_get_ns", Clock),
        ("timer_new", TimerNew),
        ("timer_free", TimerFree),
        ("timer_mod", TimerMod),
        ("register_poll_fd", PollFd),
        ("unregister_poll_fd", PollFd),
        ("notify", Notify),
        ("init_completed", InitCompleted),  # from here on version 4
        ("timer_new_opaque", TimerNewOpaque),
    ]


class Config(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32),
        ("restricted", c_int),
        ("in_enabled", c_bool),
        ("vnetwork", c_uint32),
        ("vnetmask", c_uint32),
        ("vhost", c_uint32),
        ("in6_enabled", c_bool),
        ("vprefix_addr6", _Address6),
        ("vprefix_len", c_uint8),
        ("vhost6", _Address6),
        ("vhostname", c_char_p),
        ("tftp_server_name", c_char_p),
        ("tftp_path", c_char_p),
        ("bootfile", c_char_p),
        ("vdhcp_start", c_uint32),
        ("vnameserver", c_uint32),
        ("vnameserver6", _Address6),
        ("vdnssearch", c_void_p),
        ("vdomainname", c_char_p),
        ("if_mtu", c_size_t),
        ("if_mru", c_size_t),
        ("disable_host_loopback", c_bool),
        ("enable_emu", c_bool),
        ("outbound_addr", c_void_p),  # from here on version 2
        ("outbound_addr6", c_void_p),
        ("disable_dns", c_bool),  # version 3
        ("disable_dhcp", c_bool),  # version 4
        ("reserved", c_void_p * 8),  # what later versions have is not looked at
    ]


class Library:
    """The functions, declared. ``version``: of SlirpConfig, as far as this library knows it."""

    def __init__(self, library: ctypes.PyDLL) -> None:
        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, name)
            found.restype, found.argtypes = result, arguments
            return found

        self.new = function("slirp_new", c_void_p, c_void_p, c_void_p, c_void_p)
        self.cleanup = function("slirp_cleanup", None, c_void_p)
        self.input = function("slirp_input", None, c_void_p, c_char_p, c_int)
        self.fill = function("slirp_pollfds_fill", None, c_void_p, c_void_p, AddPoll, c_void_p)
        self.poll = function("slirp_pollfds_poll", None, c_void_p, c_int, GetEvents, c_void_p)
        self.forward = function("slirp_add_hostfwd", c_int, c_void_p, c_int, c_uint32, c_int, c_uint32, c_int)
        self.version = 1
        if hasattr(library, "slirp_handle_timer"):  # 4.7
            self.version = 4
            self.handle_timer = function("slirp_handle_timer", None, c_void_p, c_int, c_void_p)


_libraries: dict[str, Library | None] = {}
_log: Any = None  # GLib's default handler as long as the process lives


def load(name: str = "libslirp.so.0") -> Library | None:
    """The library; None when it is not installed, or older than 4.1."""
    if name not in _libraries:
        try:
            _libraries[name] = Library(ctypes.PyDLL(name, use_errno=True))
            _quieten()
        except (OSError, AttributeError):
            _libraries[name] = None
    return _libraries[name]


def _quieten() -> None:
    """libslirp complains through GLib, of a guest too: a few lines, each one line, instead of a flood."""
    global _log
    left = _GLIB_LINES

    def tell(_domain: bytes | None, _level: int, text: bytes | None, _data: object) -> None:
        nonlocal left
        if left:
            left -= 1
            say(f"pyvmm: warning: libslirp: {(text or b'').decode(errors='replace')}{'' if left else ' (no more of these)'}")

    try:
        glib = ctypes.PyDLL("libglib-2.0.so.0")
        glib.g_log_set_default_handler.argtypes = (Log, c_void_p)
        glib.g_log_set_default_handler.restype = c_void_p
        _log = Log(tell)
        glib.g_log_set_default_handler(_log, None)
    except (OSError, AttributeError):
        pass


def configure(options: UserNetwork, version: int, mtu: int) -> Config:
    config = Config(version=version, restricted=options.restrict, in_enabled=True, in6_enabled=options.ipv6, vprefix_len=64)
    config.if_mtu = config.if_mru = mtu
    for field, value in (
        ("vnetwork", options.network), ("vnetmask", options.mask), ("vhost", options.host),
        ("vdhcp_start", options.dhcp), ("vnameserver", options.dns),
    ):  # fmt: skip
        setattr(config, field, socket.htonl(value))
    for field, text in (("vprefix_addr6", "fec0::"), ("vhost6", "fec0::2"), ("vnameserver6", "fec0::3")):  # QEMU's
        setattr(config, field, _Address6.from_buffer_copy(socket.inet_pton(socket.AF_INET6, text)))
    for field, text in (
        ("vhostname", options.hostname), ("vdomainname", options.domain), ("tftp_path", options.tftp),
        ("bootfile", options.bootfile), ("tftp_server_name", options.tftp_server),
    ):  # fmt: skip
        setattr(config, field, os.fsencode(text) or None)
    return config


def packed(address: str) -> int:
    """A dotted address as ``struct in_addr`` in a register."""
    return int.from_bytes(socket.inet_aton(address), "little")
