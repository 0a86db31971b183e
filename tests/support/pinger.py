"""python tests/support/pinger.py ADDRESS COUNT: one ICMP echo after another, as ping does; needs root. Prints "N of COUNT"."""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.guestnet import checksum

PATIENCE = 20.0  # seconds in all


def main(address: str, count: int) -> int:
    answered, end = 0, time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(1)
        while answered < count and time.monotonic() < end:
            message = struct.pack(">BBHHH", 8, 0, 0, 7, answered) + bytes(range(56))
            try:
                raw.sendto(message[:2] + struct.pack(">H", checksum(message)) + message[4:], (address, 0))
                while True:
                    reply = raw.recv(2048)
                    if reply[20] == 0 and struct.unpack_from(">HH", reply, 24) == (7, answered):
                        break
            except OSError:
                continue  # nobody there yet: again
            answered += 1
    print(f"{answered} of {count}")
    return int(answered < count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
