"""Debian's unmodified kernel on pyvmm's network cards: its own e1000.ko and virtio_net.ko, a user network and a neighbour on a wire.

As test_linux.py: tox -e nested runs them inside host B. One boot does many things, as a boot is the dear part. PYVMM_FULL=1: more
pings, more bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import features, linux, netlinux, netns, network, pcapfile, qemu_peer
from tests.support.process import wait_until
from tests.support.wirepeer import GONE, Neighbour, Server

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
FULL = bool(os.environ.get("PYVMM_FULL"))
LIMIT = 600.0 if FULL else 300.0  # seconds for one boot; about 60 on host B
MIB = 1 << 20
SIZE = (64 if FULL else 8) * MIB  # by TCP, each way
INWARD = bytes(range(251)) * 4000  # through hostfwd
PINGS = 1000 if FULL else 100
# Warnings that are true, or the nested host's: see test_linux.py. The e1000's own self-test says what it does, as a warning.
KNOWN = (
    "fail to add MMCONFIG information", "Unstable clock", "trace_clock", "local clock", "kernel command line", "clocksource",
    "hrtimer: interrupt took", "Unable to calibrate against PIT", "offline testing", "online testing", "testing starting",
)  # fmt: skip

# eth0: `user`. eth1: a wire with a neighbour who answers everything. SOURCE, SINK: TCP servers of the host, at 10.0.2.2.
# cat, not nc itself, sends: nc writes 1 KiB at a time, and as each is acknowledged before the next comes, each is a frame and an
# interrupt of its own (0.1 MB/s on host B, 0.17 on QEMU), with nothing for segmentation offload to do. `plain` has it so.
TRAFFIC = """
section get; nc 10.0.2.2 $SOURCE </dev/null | sha256sum
section put; head -c $SIZE /dev/urandom >/tmp/random; sha256sum </tmp/random; nc 10.0.2.2 $SINK -e cat /tmp/random
wait_for 60 drained
"""
PINGS_JOB = """
section ping; ping -q -c $PINGS -i 0.01 10.0.2.2; ping -q -c 5 -i 0.01 -s 1400 10.0.2.2
"""
# What one driver can do. The wire's address that ends with 66 makes the neighbour leave for a while.
DRIVER = f"""
section load; load $DRIVER; sleep 1; cat /sys/class/net/eth*/address
basename $(readlink /sys/class/net/eth0/device/driver)
section dhcp; dhcp eth0
{PINGS_JOB}
{TRAFFIC}
section inward; nc -l -p 7000 | sha256sum
section offloads; ethtool -k eth0
section statistics; ethtool -S eth0
section plain; head -c 1048576 /tmp/random | sha256sum; ethtool -K eth0 tso off gso off tx off 2>&1
head -c 1048576 /tmp/random | nc 10.0.2.2 $SINK; ethtool -K eth0 tx on tso on gso on 2>&1
section wire; ip addr add 10.5.0.1/24 dev eth1; ip link set eth1 up; wait_for 20 carrier eth1 1
ping -q -c 20 -i 0.01 10.5.0.2
section jumbo; ip link set eth1 mtu 9000; wait_for 20 carrier eth1 1
ping -q -c 10 -i 0.01 -s 8972 10.5.0.2; ip link set eth1 mtu 1500; wait_for 20 carrier eth1 1
section vlan; ip link add link eth1 name eth1.5 type vlan id 5; ip addr add 10.6.0.1/24 dev eth1.5
ip link set eth1.5 up; ping -q -c 10 -i 0.01 -s 1472 10.6.0.2
section down; ping -q -c 1 -W 1 10.5.0.{GONE} >/dev/null; wait_for 20 carrier eth1 0 && echo down
wait_for 20 carrier eth1 1 && echo up; ping -q -c 5 -i 0.01 10.5.0.2
section admin; ip link set eth0 down; ip link set eth0 up; wait_for 20 carrier eth0 1
ping -q -c 5 -i 0.01 10.0.2.2
%s
section interrupts; grep -E 'eth|virtio' /proc/interrupts
section reload; ip link del eth1.5; rmmod $DRIVER || echo FAILED; load $DRIVER; sleep 1; dhcp eth0
ping -q -c 5 -i 0.01 10.0.2.2
section warnings; dmesg -r | sed -n 's/^<[0-4]>//p'
section log; dmesg | grep -E 'e1000|virtio_net|eth[01]'
"""
E1000_ONLY = """
section selftest; ethtool -t eth1 offline; echo status $?; wait_for 20 carrier eth1 1
ping -q -c 5 -i 0.01 10.5.0.2
section settings; ethtool eth0; ethtool -G eth1 rx 4096 tx 80 && echo rings
wait_for 20 carrier eth1 1; ping -q -c 5 -i 0.01 10.5.0.2
ethtool -d eth0 | head -20; ethtool -e eth0 | head -5
"""
VIRTIO_ONLY = """
section settings; ethtool eth0; ethtool -g eth0; ethtool -l eth0
"""


def options(**values: object) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def parts(shown: str) -> dict[str, str]:
    """{section: what was printed in it}; asserts that the job got to its end."""
    split = re.split(r"^== (\w+) [\d.]+\n", shown.replace("\r", ""), flags=re.MULTILINE)
    found = dict(zip(split[1::2], split[2::2], strict=True))
    assert "end" in found, shown[-3000:]
    return found


def boot(job: str, *words: str, scratch: Path, append: str = "") -> dict[str, str]:
    """Runs a job; what it printed. The VMM is this pyvmm."""
    ended = features.run_pyvmm(
        "run", "-kernel", str(linux.image(netlinux.KERNEL, "bzimage")), "-initrd",
        str(netlinux.initrd(netlinux.FUNCTIONS + job, scratch / "initrd")), "-append", f"console=ttyS0 quiet panic=-1 {append}",
        "-m", "512", "-no-reboot", "--timeout", str(LIMIT), *words, timeout=LIMIT + 60,
    )  # fmt: skip
    shown = ended.stdout.decode("latin-1")
    assert ended.returncode == 0 and ended.stderr == b"", f"status {ended.returncode}\n{shown[-4000:]}\n{ended.stderr.decode()[-4000:]}"
    print("seconds:", *re.findall(r"^== (\w+ [\d.]+)", shown, re.MULTILINE), sep="  ")
    return parts(shown)


@pytest.fixture(scope="module", autouse=True)
def _user_networks() -> None:
    if missing := network.why_no_user():
        pytest.skip(missing)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SIZE) as running:
        yield running


def pinged(text: str, *counts: int) -> None:
    """Every ping of a section was answered, and there were as many as that."""
    # busybox says it twice when the last answer comes at the moment its alarm does
    said = [re.findall(r"(\d+) packets transmitted, (\d+) packets received", section)[-1:] for section in text.split("PING ")]
    found = [(int(sent), int(got)) for one in said for sent, got in one]
    assert found == [(count, count) for count in counts], text


def sums(text: str) -> list[str]:
    return re.findall(r"^([0-9a-f]{64}) ", text, re.MULTILINE)


def moved(found: dict[str, str], server: Server) -> None:
    """TCP brought all bytes, both ways; with ``plain``, also without offloads."""
    assert sums(found["get"]) == [server.sent], found["get"]
    expected = [(sums(found["put"])[0], SIZE)]
    if "plain" in found:
        expected.append((sums(found["plain"])[0], MIB))
    assert server.received == expected, server.received


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not any(word in line for word in KNOWN)]


def wire_words(path: Path) -> list[str]:
    return ["-netdev", f"stream,id=wire,server=on,addr.type=unix,addr.path={path}"]


def knock(port: int, data: bytes) -> threading.Thread:
    """Brings ``data`` to the guest through hostfwd, as soon as somebody listens there."""

    def bring() -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    if connection.recv(1) == b"":  # the guest took all and closed; reset where nobody listened yet
                        return
            except OSError:
                pass
            time.sleep(0.3)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    return thread


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("driver", "card"), [("e1000", "e1000"), ("virtio_net", "virtio-net-pci")], ids=["e1000", "virtio"])
def test_driver(driver: str, card: str, server: Server, tmp_path: Path) -> None:
    port, dump = free_port(), tmp_path / "eth0.pcap"
    more = E1000_ONLY if driver == "e1000" else VIRTIO_ONLY
    job = options(DRIVER=driver, SIZE=SIZE, PINGS=PINGS, SOURCE=server.source, SINK=server.sink) + DRIVER % more
    words = ["-netdev", f"user,id=out,hostfwd=tcp:127.0.0.1:{port}-:7000,pcap={dump}", *wire_words(tmp_path / "wire")]
    words += ["-device", f"{card},netdev=out", "-device", f"{card},netdev=wire"]
    knock(port, INWARD)
    with Neighbour(tmp_path / "wire") as neighbour:
        found = boot(job, *words, scratch=tmp_path)
    print("\n".join(f"{name}: {found[name][:400]}" for name in ("ping", "interrupts", "log")))
    assert not [name for name, text in found.items() if "FAILED" in text], found
    assert found["load"].split() == ["52:54:00:12:34:56", "52:54:00:12:34:57", driver], found["load"]
    for name in ("dhcp", "reload"):
        assert "eth0: bound 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3" in found[name], found[name]
    pinged(found["ping"], PINGS, 5)
    moved(found, server)
    assert sums(found["inward"]) == [hashlib.sha256(INWARD).hexdigest()], found["inward"]
    assert "tcp-segmentation-offload: on" in found["offloads"] and "tx-checksumming: on" in found["offloads"], found["offloads"]
    assert re.search(r"tx_packets: [1-9]|tx_queue_0_packets: [1-9]", found["statistics"]), found["statistics"]
    pinged(found["wire"], 20)
    pinged(found["jumbo"], 10)
    pinged(found["vlan"], 10)
    assert found["down"].startswith("down\nup\n"), found["down"]
    pinged(found["down"], 5)
    pinged(found["admin"], 5)
    pinged(found["reload"], 5)
    assert neighbour.longest == 9014 and neighbour.tagged == 10 and neighbour.visits >= 2 and not neighbour.bad, vars(neighbour)
    if driver == "e1000":
        selftest(found)
    assert not warnings(found["warnings"]), found["warnings"]
    sniffed(dump)


def selftest(found: dict[str, str]) -> None:
    text = found["selftest"]
    assert "The test result is PASS" in text and "status 0" in text, text
    for test in ("Register test", "Eeprom test", "Interrupt test", "Loopback test", "Link test"):
        assert re.search(rf"{test} +\([\w/]+\)\s+0$", text, re.MULTILINE), text
    pinged(text, 5)
    assert "rings" in found["settings"], found["settings"]
    assert "Speed: 1000Mb/s" in found["settings"] and "Duplex: Full" in found["settings"], found["settings"]
    pinged(found["settings"], 5)
    assert "NIC Link is Up 1000 Mbps Full Duplex" in found["log"] and "NIC Link is Down" in found["log"], found["log"]


def answered(text: str, echoes: int) -> None:
    """Every echo request this kernel has sent was answered. ping itself, once all are sent, waits for two round trips and no longer."""
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Icmp:"))
    counters = dict(zip(names, map(int, values), strict=True))
    assert (counters["OutEchos"], counters["InEchoReps"]) == (echoes, echoes), text


def sniffed(dump: Path) -> None:
    """What went over the wire of eth0 was right, with what offloads had left to it."""
    seen = pcapfile.examine(dump)
    print(seen)
    assert not seen.bad, seen.bad[:10]
    assert seen.dhcp[:4] == ["discover", "offer", "request", "ack"], seen.dhcp
    assert 1514 < seen.longest <= 65549 and seen.kinds["tcp"] > 300 and seen.kinds["icmp"] >= 2 * PINGS, seen  # TCP in large frames
    tshark = shutil.which("tshark")
    if tshark and FULL:
        command = [tshark, "-r", str(dump), "-c", "3000", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
                   "-o", "udp.check_checksum:TRUE", "-Y", "_ws.malformed or ip.checksum.status==0 or tcp.checksum.status==0"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stdout == "", done.stdout[:2000] + done.stderr


SHARED = (
    """
section load; load e1000; load virtio_net; sleep 1
for card in /sys/class/net/eth*; do echo $(basename $(readlink $card/device/driver)) $(basename $card); done
section dhcp; dhcp eth0
section wire; ip addr add 10.5.0.1/24 dev eth1; ip link set eth1 up; wait_for 20 carrier eth1 1
(dd if=/dev/vda of=/dev/null bs=4k count=2000 iflag=direct 2>&1; echo disk) & reader=$!
ping -q -c $PINGS -i 0.01 10.5.0.2 & pinger=$!
"""
    + TRAFFIC
    + """
wait $reader; wait $pinger
section answered; sleep 3; grep Icmp: /proc/net/snmp
section again; ping -q -c 20 -i 0.01 10.5.0.2; ping -q -c 20 -i 0.01 10.0.2.2
section interrupts; cat /proc/interrupts
section warnings; dmesg -r | sed -n 's/^<[0-4]>//p'
"""
)


def test_both_cards_and_a_disk_on_one_line(server: Server, tmp_path: Path) -> None:
    """e1000 and virtio-net at once, all on INTA# of slots 4, 8, 12: the same line."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(range(256)) * (8 * MIB // 256))
    words = ["-netdev", "user,id=out", *wire_words(tmp_path / "wire"), "-drive", f"file={disk},format=raw,if=none,id=disk"]
    words += ["-device", "e1000,netdev=out,addr=4", "-device", "virtio-net-pci,netdev=wire,addr=8"]
    words += ["-device", "virtio-blk-pci,drive=disk,addr=c"]
    job = options(SIZE=SIZE, PINGS=PINGS, SOURCE=server.source, SINK=server.sink) + SHARED
    with Neighbour(tmp_path / "wire") as neighbour:
        found = boot(job, *words, scratch=tmp_path, append="pci=nomsi")
    assert not [name for name, text in found.items() if "FAILED" in text], found
    assert found["load"].split() == ["e1000", "eth0", "virtio_net", "eth1"], found["load"]
    moved(found, server)
    whole = "".join(found[name] for name in ("wire", "get", "put"))
    assert f"{PINGS} packets transmitted" in whole, whole
    answered(found["answered"], PINGS)
    assert "2000+0 records in" in whole and "\ndisk" in whole, whole
    pinged(found["again"], 20, 20)
    assert re.search(r"IO-APIC +\d+-fasteoi .*(?=.*virtio0)(?=.*virtio1).*eth0", found["interrupts"]), found
    assert not warnings(found["warnings"]), found["warnings"]
    assert neighbour.echoes == PINGS + 20 and not neighbour.bad


LEGACY = f"""
section load; rmmod virtio_pci; insmod /modules/virtio_pci.ko force_legacy=1 || echo FAILED; load virtio_net; sleep 1
for each in /sys/bus/virtio/devices/*; do cut -c 33 $each/features; cat $each/vendor $each/device; done
section disk; head -c 4194304 /dev/urandom >/tmp/disk; sha256sum </tmp/disk; dd if=/tmp/disk of=/dev/vda bs=64k conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k 2>/dev/null | sha256sum
section dhcp; dhcp eth0
{PINGS_JOB}
{TRAFFIC}
section interrupts; grep virtio /proc/interrupts
section warnings; dmesg -r | sed -n 's/^<[0-4]>//p'
"""


@pytest.mark.parametrize("append", ["pci=nomsi", ""] if FULL else ["pci=nomsi"])
def test_drivers_from_before_virtio_1(append: str, server: Server, tmp_path: Path) -> None:
    """Linux's, told to use the legacy interface of transitional functions: a disk and a card. Without MSI-X registers are elsewhere."""
    (tmp_path / "disk").write_bytes(bytes(4 << 20))
    words = ["-drive", f"file={tmp_path / 'disk'},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,disable-legacy=off"]
    words += ["-netdev", "user,id=n", "-device", "virtio-net-pci-transitional,netdev=n"]
    found = boot(options(PINGS=PINGS, SIZE=SIZE, SOURCE=server.source, SINK=server.sink) + LEGACY, *words, scratch=tmp_path, append=append)
    assert found["load"].split() == ["0", "0x1af4", "0x0002", "0", "0x1af4", "0x0001"], found["load"]
    written, read = sums(found["disk"])
    assert written == read == hashlib.sha256((tmp_path / "disk").read_bytes()).hexdigest()
    pinged(found["ping"], PINGS, 5)
    moved(found, server)
    line = r"IO-APIC.*virtio[01]$" if append else r"PCI-MSI.*virtio(?:0-req|1-input)"
    assert len(re.findall(line, found["interrupts"], re.MULTILINE)) == 2, found["interrupts"]
    assert not warnings(found["warnings"]), found["warnings"]


SERVES = """
section load; load $DRIVER; sleep 1; ip addr add 10.7.0.1/24 dev eth0; ip link set eth0 up; wait_for 60 carrier eth0 1
head -c $SIZE /dev/urandom >/tmp/random
section sums; sha256sum </tmp/random; nc -l -p 7000 | sha256sum
nc -l -p 7001 </tmp/random; sleep 3
"""
CALLS = """
section load; load $DRIVER; sleep 1; ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up; wait_for 60 carrier eth0 1
head -c $SIZE /dev/urandom >/tmp/random
wait_for 60 ping -c 1 -W 1 10.7.0.1
section sums; sha256sum </tmp/random
tries=0; while ! nc 10.7.0.1 7000 </tmp/random && [ $tries -lt 60 ]; do sleep 0.5; tries=$((tries + 1)); done
mkfifo /tmp/open; sleep 1000 >/tmp/open & # busybox's nc at the other end leaves as soon as we close
tries=0; while ! nc 10.7.0.1 7001 </tmp/open >/tmp/got && [ $tries -lt 60 ]; do sleep 0.5; tries=$((tries + 1)); done
sha256sum </tmp/got
"""


def test_two_guests_by_tcp(tmp_path: Path) -> None:
    """pyvmm with pyvmm: TCP both ways over a stream."""
    wire, processes = tmp_path / "wire", []
    for name, driver, job in (("server", "e1000", SERVES), ("caller", "virtio_net", CALLS)):
        on = "on" if name == "server" else "off"
        card = "virtio-net-pci" if driver == "virtio_net" else "e1000"
        given = options(DRIVER=driver, SIZE=SIZE // 4) + netlinux.FUNCTIONS + job
        command = [
            sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "-kernel", str(linux.image(netlinux.KERNEL, "bzimage")),
            "-initrd", str(netlinux.initrd(given, tmp_path / name)),
            "-append", "console=ttyS0 quiet panic=-1", "-m", "256", "-no-reboot",
            "-netdev", f"stream,id=n,server={on},addr.type=unix,addr.path={wire}", "-device", f"{card},netdev=n",
        ]  # fmt: skip
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        wait_until(wire.exists, "a listener", 60)
    try:
        serving, calling = (parts(process.communicate(timeout=LIMIT + 60)[0].decode("latin-1")) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = sums(serving["sums"]), sums(calling["sums"])
    assert len(first) == 2 and first == second[::-1], (serving, calling)


@pytest.fixture
def qemu() -> Iterator[str]:
    """HOST:PORT of a wire with a guest of QEMU's at the other end."""
    if reason := qemu_peer.why_not():
        pytest.skip(reason)
    if "PYVMM_PEER" in os.environ:
        yield os.environ["PYVMM_PEER"]
        return
    with qemu_peer.Peer() as peer:
        yield f"127.0.0.1:{peer.port}"


@pytest.mark.parametrize(("driver", "card"), [("e1000", "e1000"), ("virtio_net", "virtio-net-pci")])
def test_tcp_with_a_guest_of_qemu(qemu: str, driver: str, card: str, tmp_path: Path) -> None:
    host, port = qemu.split(":")
    job = f"""
section load; load $DRIVER; sleep 1; ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up; wait_for 60 carrier eth0 1
wait_for 120 ping -c 1 -W 1 {qemu_peer.ADDRESS}
section ping; ping -q -c 20 -i 0.01 {qemu_peer.ADDRESS}
section put; head -c $SIZE /dev/urandom >/tmp/random; sha256sum </tmp/random; wait_for 60 nc {qemu_peer.ADDRESS} 7000 -e cat /tmp/random
section get; nc {qemu_peer.ADDRESS} 7001 </dev/null | sha256sum
section warnings; dmesg -r | sed -n 's/^<[0-4]>//p'
"""
    wire = f"stream,id=n,addr.type=inet,addr.host={host},addr.port={port},reconnect=1"
    found = boot(options(DRIVER=driver, SIZE=SIZE // 4) + job, "-netdev", wire, "-device", f"{card},netdev=n", scratch=tmp_path)
    pinged(found["ping"], 20)
    assert len(sums(found["put"])) == 1 and sums(found["put"]) == sums(found["get"]), found
    assert not warnings(found["warnings"]), found["warnings"]


def test_tap_in_a_namespace(tmp_path: Path) -> None:
    """Pings and TCP both ways with the kernel of the host behind a tap, checksums and segmentation left to it."""
    if reason := netns.why_not():
        pytest.skip(reason)
    job = """
section load; load e1000; load virtio_net; sleep 1
for number in 0 1; do
ip addr add 10.8.$number.2/24 dev eth$number; ip link set eth$number mtu 9000 up; wait_for 20 carrier eth$number 1
done
section ping; for number in 0 1; do ping -q -c $PINGS -i 0.01 10.8.$number.1; ping -q -c 5 -s 8972 10.8.$number.1; done
for number in 0 1; do
section get$number; nc 10.8.$number.1 $SOURCE </dev/null | sha256sum
section put$number; head -c $SIZE /dev/urandom >/tmp/random; sha256sum </tmp/random; nc 10.8.$number.1 $SINK -e cat /tmp/random
done
section offloads; ethtool -k eth1
section warnings; dmesg -r | sed -n 's/^<[0-4]>//p'
"""

    def body() -> None:
        words = []
        for number, card in enumerate(("e1000", "virtio-net-pci")):
            netns.tap(f"tap{number}", f"10.8.{number}.1/24", mtu=9000)
            words += ["-netdev", f"tap,id=t{number},ifname=tap{number},script=no,downscript=no", "-device", f"{card},netdev=t{number}"]
        with Server(SIZE // 2, "0.0.0.0") as server:
            values = options(PINGS=PINGS, SIZE=SIZE // 2, SOURCE=server.source, SINK=server.sink)
            found = boot(values + job, *words, scratch=tmp_path)
        pinged(found["ping"], PINGS, 5, PINGS, 5)
        assert sums(found["get0"] + found["get1"]) == [server.sent] * 2, found
        assert [digest for digest, _ in server.received] == sums(found["put0"]) + sums(found["put1"]), (found, server.received)
        assert not warnings(found["warnings"]), found["warnings"]

    netns.inside(body)
