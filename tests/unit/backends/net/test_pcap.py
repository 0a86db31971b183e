"""Dumps: what a reader of the file sees, by our own eyes and tshark's."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net.backend import CSUM, Wire, open_netdev, open_netdevs
from pyvmm.backends.net.pcap import PcapDump, with_checksum
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.guestnet import ip, ipv4, tcp, udp
from tests.support.network import FakeNic, Loop, frame, running_loop

ETHERNET = b"\x52\x55\x0a\x00\x02\x02" + b"\x52\x54\x00\x12\x34\x56" + b"\x08\x00"


@pytest.fixture
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


class Recorder(Wire):
    """A wire that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__("n0")
        self.got: list[tuple[bytes, object]] = []

    def send(self, frame: bytes | bytearray | memoryview, header: object = None) -> None:
        self.got.append((bytes(frame), header))


def parse(data: bytes) -> list[tuple[int, bytes]]:
    """(original length, bytes) of each packet, with the file's and each record's form checked."""
    magic, major, minor, zone, figures, snaplen, network = struct.unpack_from("=IHHiIII", data)
    assert (magic, major, minor, zone, figures, network) == (0xA1B23C4D, 2, 4, 0, 0, 1)
    packets, place, before = [], 24, (0, 0)
    while place < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, place)
        assert before <= (seconds, nanoseconds) and nanoseconds < 10**9 and kept == min(length, snaplen)
        before = seconds, nanoseconds
        packets.append((length, data[place + 16 : place + 16 + kept]))
        place += 16 + kept
    assert place == len(data)
    return packets


def test_both_directions_at_once_in_the_file(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "d.pcap"
    netdevs = open_netdevs(
        [NetConfig(id="a", kind="hubport", pcap=str(path)), NetConfig(id="b", kind="hubport")],
    )
    one, two = FakeNic(room=1), FakeNic()
    netdevs["a"].attach(loop, one)
    netdevs["b"].attach(loop, two)
    assert parse(path.read_bytes()) == []
    netdevs["a"].send(frame(1))
    netdevs["b"].send(frame(2, 1514))
    netdevs["b"].send(frame(3))  # the card has no buffer
    expected = [(60, frame(1)), (1514, frame(2, 1514))]
    assert parse(path.read_bytes()) == expected  # no close, no flush: each packet is there
    one.room = None
    netdevs["a"].resume()
    assert loop.until(lambda: len(one.frames) == 2)
    assert parse(path.read_bytes()) == [*expected, (60, frame(3))]
    assert two.frames == [frame(1)]
    assert netdevs["a"].counters.received == 2 and netdevs["a"].name == "a" and netdevs["a"].link
    for each in netdevs.values():
        each.close()
        each.close()


def test_a_snaplen_cuts_the_bytes_not_the_length(tmp_path: Path) -> None:
    path = tmp_path / "d.pcap"
    dump = PcapDump(Recorder(), str(path), 64)
    dump.send(memoryview(frame(1, 200)))
    assert parse(path.read_bytes()) == [(200, frame(1, 200)[:64])]
    dump.close()


def header(start: int, offset: int, flags: int = CSUM) -> bytes:
    return struct.pack("<BBHHHHH", flags, 0, 0, 0, start, offset, 0)


@pytest.mark.parametrize(("protocol", "body", "at"), [(17, udp(1, 2, b"odd"), 6), (6, tcp(1, 2, 3, 4, 24, b"even"), 16)])
def test_checksums_left_to_the_hardware_are_right_in_the_dump(protocol: int, body: bytes, at: int, tmp_path: Path) -> None:
    right = ETHERNET + ipv4(ip("10.0.2.15"), ip("10.0.2.2"), protocol, body)
    place = 34 + at
    pseudo = ip("10.0.2.15") + ip("10.0.2.2") + struct.pack(">BBH", 0, protocol, len(body))
    seed = sum(struct.unpack(">6H", pseudo))
    seed = (seed & 0xFFFF) + (seed >> 16)
    left = right[:place] + struct.pack(">H", seed) + right[place + 2 :]
    inner = Recorder()
    dump = PcapDump(inner, str(tmp_path / "d.pcap"))
    given = header(34, at)
    dump.send(left, given)
    assert inner.got == [(left, given)]  # the wire gets it as it was
    assert parse((tmp_path / "d.pcap").read_bytes()) == [(len(right), right)]
    dump.close()


@pytest.mark.parametrize(("start", "offset"), [(60, 0), (65535, 65535), (0, 59), (59, 1)])
def test_a_header_that_lies_changes_nothing(start: int, offset: int) -> None:
    assert with_checksum(frame(1), header(start, offset)) == frame(1)


def test_a_file_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, problem in ((tmp_path / "no/such", "No such file"), (tmp_path, "directory"), (tmp_path / "fifo", "no program reads")):
        with pytest.raises(ConfigError) as caught:
            open_netdev(NetConfig(id="n7", kind="hubport", pcap=str(path)))
        assert problem in str(caught.value) and "n7" in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_ends_the_dump_not_the_run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    inner = Recorder()
    dump = PcapDump(inner, str(tmp_path / "d.pcap"))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, dump._fd)
    os.close(full)
    for number in range(3):
        dump.send(frame(number))
    assert len(inner.got) == 3
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "ends here: No space left" in err
    dump.close()


def test_a_slow_reader_of_a_fifo_gets_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    dump = PcapDump(Recorder(), str(path))
    got = b""
    for number in range(400):
        dump.send(frame(number, 1514))
        if number % 100 == 99:
            try:
                while data := os.read(reader, 1 << 16):
                    got += data
            except BlockingIOError:
                pass
    dump.send(frame(400, 1514))
    got += os.read(reader, 1 << 16)
    packets = parse(got)
    assert 100 < len(packets) < 400 and all(packet in {(1514, frame(number, 1514)) for number in range(401)} for packet in packets)
    dump.close()
    os.close(reader)


def test_tshark_reads_it(tmp_path: Path) -> None:
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    path = tmp_path / "d.pcap"
    dump = PcapDump(Recorder(), str(path))
    for number in range(3):
        dump.send(ETHERNET + ipv4(ip("10.0.2.15"), ip("10.0.2.2"), 17, udp(1000, 2000, b"x" * number)))
    done = subprocess.run(  # nothing closed, as after a kill
        ["tshark", "-r", str(path), "-o", "udp.check_checksum:TRUE", "-T", "fields",
         "-e", "ip.src", "-e", "udp.length", "-e", "udp.checksum.status"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == [f"10.0.2.15\t{8 + number}\t1" for number in range(3)]
    dump.close()
