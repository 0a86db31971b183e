"""A tap interface of the host's kernel: a card there, a cable to the card here.

Frames come and go with a virtio_net_hdr (IFF_VNET_HDR), so that checksums and segmentation may be left to whoever needs them
done; the kernel does both before a frame arrives unless the guest's driver takes it undone (``set_offload``). The host's half,
addresses or a bridge, is the user's: no script is run. Interface: Documentation/networking/tuntap.rst, linux/if_tun.h.
"""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl

from pyvmm.backends.net.backend import BUDGET, CSUM, ECN, HEADER, MAX_FRAME, TSO4, TSO6, DescriptorWire, complain
from pyvmm.backends.net.pcap import with_checksum
from pyvmm.backends.stderr import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import Frame
    from pyvmm.config import NetConfig
    from pyvmm.errors import ConfigError

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNGETFEATURES = 0x800454CF
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_IFREQ = "16sH22x"
_NO_HEADER = bytes(HEADER)
_GSO = {0: 0, 1: TSO4, 4: TSO6}  # virtio_net_hdr.gso_type without the ECN bit


class Tap(DescriptorWire):
    """One queue of a tap interface.

    Args:
        name: id of the netdev.
        fd: the descriptor, bound to the interface; ours from here on.
        offload: whether IFF_VNET_HDR is on.
    """

    max_frame = MAX_FRAME

    def __init__(self, name: str, fd: int, offload: bool) -> None:
        super().__init__(name, fd)
        self.offload = offload
        self.link = True
        self._flags = 0
        self._header = bytearray(HEADER)
        self._frame = bytearray(MAX_FRAME)
        self._buffers = [self._header, self._frame] if offload else [self._frame]
        self._held: memoryview | bytes | None = None
        os.set_blocking(fd, False)
        if offload:
            ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", HEADER))
        self.set_offload(0)

    def detach(self) -> None:
        super().detach()
        self.set_offload(0)
        if self._held is not None:
            self._held = None
            self.counters.dropped_rx += 1

    def close(self) -> None:
        super().close()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def set_offload(self, flags: int) -> None:
        if self.offload and self.fd >= 0:
            self._flags = flags & (CSUM | TSO4 | TSO6 | ECN) if flags & CSUM else 0  # the kernel refuses TSO without checksums
            try:
                ioctl(self.fd, _TUNSETOFFLOAD, self._flags)
            except OSError:
                self._flags = 0  # a kernel that cannot leaves nothing undone

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        try:
            if self.offload:
                os.writev(self.fd, (_NO_HEADER if header is None else header, frame))
            else:
                os.write(self.fd, frame)
            self.counters.sent += 1
        except OSError:  # EIO: the interface is down; EINVAL: not a frame, or a header that lies; EAGAIN
            self.counters.dropped_tx += 1

    def _pull(self) -> None:
        if self._held is not None:
            if not self._offer(self._held, self._header if self.offload else None):
                self._pause()
                return
            self._held = None
        skip = HEADER if self.offload else 0
        view = memoryview(self._frame)
        for _ in range(BUDGET):
            try:
                got = os.readv(self.fd, self._buffers) - skip
            except BlockingIOError:
                return
            except OSError as error:
                self._gone(error)
                return
            frame: memoryview | bytes = view[: max(got, 0)]
            if skip:
                if _GSO.get(self._header[1] & 0x7F, 16) & ~self._flags:
                    self.counters.dropped_rx += 1  # queued while a driver took it, read for one that does not
                    continue
                if self._header[0] & CSUM and not self._flags & CSUM:
                    frame = bytes(with_checksum(frame, self._header))
                    self._header[0] = 0
            if not self._offer(frame, self._header if skip else None):
                self._held = frame
                self._pause()
                return

    def _gone(self, error: OSError) -> None:
        self._unwatch()
        fd, self.fd = self.fd, -1
        os.close(fd)
        say(f"pyvmm: netdev {self.name}: the tap interface is gone ({error.strerror}); the cable is unplugged")
        self._set_link(False)


def open_tap(config: NetConfig) -> Tap:
    """``-netdev tap,id=ID,ifname=NAME[,script=no][,downscript=no][,vnet_hdr=on|off]`` or ``fd=N``.

    Raises:
        ConfigError: one line with the problem and what to do.
    """
    for key in ("script", "downscript"):
        if config.get(key, "no") not in ("no", ""):
            raise complain(config, f"{key}={config.get(key)}: pyvmm runs no scripts; write {key}=no and set the interface up yourself")
    if config.flag("vhost", False):
        raise complain(config, "vhost=on: not supported; leave it out")
    wanted = config.flag("vnet_hdr", True)
    text = config.get("fd")
    if text:
        if config.get("ifname"):
            raise complain(config, "give ifname= or fd=, not both")
        return _inherited(config, text)
    name = config.get("ifname")
    if len(os.fsencode(name)) > 15 or "/" in name or "\0" in name:
        raise complain(config, f"ifname={name}: an interface's name has up to 15 characters and no slash")
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise complain(config, f"{_DEVICE}: {error.strerror}; {_open_hint(error)}") from None
    try:
        given, offload = _bind(fd, os.fsencode(name), wanted)
        wire = Tap(config.id, fd, offload)
    except OSError as error:
        os.close(fd)
        raise _bind_error(config, name, error) from None
    if given != name:
        say(f"pyvmm: netdev {config.id} is the tap interface {given}")
    return wire


def _bind(fd: int, name: bytes, header: bool) -> tuple[str, bool]:
    """Attaches the descriptor to the interface, making it when it is not there. Returns its name and whether headers are on."""
    flags = _IFF_TAP | _IFF_NO_PI
    features = struct.unpack("=I", ioctl(fd, _TUNGETFEATURES, bytes(4)))[0]
    if header and features & _IFF_VNET_HDR:
        flags |= _IFF_VNET_HDR
    try:
        reply = ioctl(fd, _TUNSETIFF, struct.pack(_IFREQ, name, flags))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        reply = ioctl(fd, _TUNSETIFF, struct.pack(_IFREQ, name, flags | _IFF_MULTI_QUEUE))  # somebody made it for several queues
    return os.fsdecode(struct.unpack(_IFREQ, reply)[0].rstrip(b"\0")), bool(flags & _IFF_VNET_HDR)


def _inherited(config: NetConfig, text: str) -> Tap:
    """``fd=N``: bound by whoever started us (macvtap: ``fd=3 3<>/dev/tap$INDEX``)."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else -1
    try:
        if number < 3:
            raise OSError
        flags = struct.unpack(_IFREQ, ioctl(number, _TUNGETIFF, bytes(40)))[1]
        os.set_inheritable(number, False)
        if flags & _IFF_TAP and flags & _IFF_NO_PI:
            return Tap(config.id, number, bool(flags & _IFF_VNET_HDR))
    except OSError:
        pass
    raise complain(config, f"fd={text}: that is no inherited descriptor of a tap interface without packet information (IFF_NO_PI)")


def _open_hint(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "load the driver with `modprobe tun` (in a container: give it the device)"
    return "run as root, or let a group open it"


def _bind_error(config: NetConfig, name: str, error: OSError) -> ConfigError:
    user = "`sudo ip tuntap add dev NAME mode tap user $USER` makes one for you".replace("NAME", name or "tap0")
    hints = {
        errno.EPERM: f"an interface of one's own needs no root: {user}, then ifname={name or 'tap0'}",
        errno.EBUSY: "another program uses this interface: name another, or end that one",
        errno.EINVAL: "there is an interface of another kind by this name: name another",
    }
    return complain(config, f"tap {name}: {error.strerror}; {hints.get(error.errno or 0, user)}")
