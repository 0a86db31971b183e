"""A dump of what passes a wire: classic pcap, one ``write`` per packet, so that a killed run leaves a file that opens.

Format: draft-ietf-opsawg-pcap, sections 4 and 5, in the host's byte order, nanoseconds.
"""

from __future__ import annotations

import errno
import os
import struct
from time import time_ns

from pyvmm.backends.net.backend import CSUM
from pyvmm.backends.stderr import one_line, say
from pyvmm.errors import ConfigError
from pyvmm.net.frames import put_checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import Frame, NetBackend, NetCounters, NetPeer
    from pyvmm.ioloop import IoLoop

SNAPLEN = 262144  # what Wireshark and tcpdump take for "everything"
_MAGIC = 0xA1B23C4D  # nanoseconds
_ETHERNET = 1  # LINKTYPE_ETHERNET, without FCS


class PcapDump:
    """A wire with a dump beside it; the card at one end and the wire at the other do not notice.

    A frame is dumped when it is sent, and when the card has taken it. A checksum left to the hardware (``offload``) is filled
    in, for the dump only.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, inner: NetBackend, path: str, snaplen: int = SNAPLEN) -> None:
        self._inner = inner
        self._nic: NetPeer | None = None
        self._path = path
        self._snaplen = snaplen
        self._rest = b""  # of a record that a pipe took in part
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags, 0o644)
            os.write(self._fd, struct.pack("=IHHiIII", _MAGIC, 2, 4, 0, 0, snaplen, _ETHERNET))
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            self._stop()
            known = {errno.ENXIO: "no program reads from this FIFO yet"}
            reason = known.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"netdev {inner.name}: dump {one_line(path)}: {reason}; name a file that can be written") from None

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def link(self) -> bool:
        return self._inner.link

    @property
    def offload(self) -> bool:
        return self._inner.offload

    @property
    def max_frame(self) -> int:
        return self._inner.max_frame

    @property
    def counters(self) -> NetCounters:
        return self._inner.counters

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        self._nic = nic
        self._inner.attach(loop, self)

    def detach(self) -> None:
        self._inner.detach()
        self._nic = None

    def set_offload(self, flags: int) -> None:
        self._inner.set_offload(flags)

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        self._record(frame, header)
        self._inner.send(frame, header)

    def flush(self) -> None:
        self._inner.flush()

    def resume(self) -> None:
        self._inner.resume()

    def close(self) -> None:
        self._inner.close()
        self._nic = None
        self._stop()

    def receive(self, frame: Frame, header: Frame | None = None) -> bool:
        """NetPeer: from the wire to the card."""
        if self._nic is None or not self._nic.receive(frame, header):
            return False
        self._record(frame, header)
        return True

    def burst(self, on: bool) -> None:
        """NetPeer: passed on."""
        if self._nic is not None:
            self._nic.burst(on)

    def link_changed(self, up: bool) -> None:
        """NetPeer: passed on."""
        if self._nic is not None:
            self._nic.link_changed(up)

    def _record(self, frame: Frame, header: Frame | None) -> None:
        if self._fd < 0:
            return
        if header is not None and len(header) and header[0] & CSUM:
            frame = with_checksum(frame, header)
        seconds, nanoseconds = divmod(time_ns(), 1_000_000_000)
        length = len(frame)
        kept = min(length, self._snaplen)
        record = struct.pack("=IIII", seconds & 0xFFFF_FFFF, nanoseconds, kept, length) + bytes(frame[:kept])
        try:
            if self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            if not self._rest:  # else the reader of a FIFO is slow: this record is not in its copy
                self._rest = record[os.write(self._fd, record) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._stop()
            say(f"pyvmm: warning: netdev {self.name}: the dump {self._path} ends here: {error.strerror}")

    def _stop(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def with_checksum(frame: Frame, header: Frame) -> Frame:
    """A copy with the checksum that a virtio_net_hdr leaves to the hardware (virtio 1.2, 5.1.6.2); the frame itself when it lies."""
    start, offset = struct.unpack_from("<HH", header, 6)
    done = bytearray(frame)
    return done if put_checksum(done, start, start + offset) else frame
