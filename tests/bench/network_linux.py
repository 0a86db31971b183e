"""Network loads of a Linux guest: pyvmm against QEMU, e1000 and virtio-net. Only where a stock kernel can boot: on host B, for one.

python tests/nested/amd.py --smp 1 --timeout 700 --results docs -- python -m tests.bench --only network_linux --markdown docs/benchmarks.md
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pyvmm.kvm.kind import emulates_ring0
from tests.bench import contestants, phases
from tests.bench.contestants import Missing
from tests.bench.disk import rows
from tests.bench.samples import Measure, Results, paired
from tests.bench.sections import Section
from tests.support import cpio, debian, initramfs, network
from tests.support.wirepeer import Server

NAME, ROUNDS = "network_linux", 1
_PART = int(os.environ.get("PYVMM_BENCH_PART", "1"))  # of each load only so much is run: 20 shows in two minutes that it works
_FRAMES, _PINGS = 1500 // _PART, 200 // _PART
_GET, _PUT = (4 << 20) // _PART, (1 << 20) // _PART  # bytes by TCP
_LIMIT = 300  # seconds for one boot; all four in less than ten minutes on a quiet host
_MODULES = ("virtio_ring", "virtio_pci", "virtio_net", "e1000")
CARDS = {"e1000": "e1000", "virtio-net": "virtio-net-pci,disable-legacy=on"}
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    case $module in *e1000.ko*|*virtio_net.ko*) late="$late $module" ;; *) insmod $module ;; esac
done
echo go probe; for module in $late; do insmod $module; done; echo done probe
sleep 1
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
ip addr add 10.9.0.1/24 dev eth1; ip link set eth1 up
for card in eth0 eth1; do while [ "$(cat /sys/class/net/$card/carrier)" != 1 ]; do sleep 0.1; done; done
arp -s 10.9.0.2 52:54:00:00:00:01
ping -q -c 3 10.0.2.2 >/dev/null
sleep 1
for word in $(cat /proc/cmdline); do case $word in load=*) load=${word#load=} ;; esac; done
/netload ${load//,/ }
reboot -f
"""
_FRAME = 1448  # bytes of TCP data in a full one
# phase of netload.c: label, how many in it, unit, what one counts in that unit, what one is
_LOADS = {
    "probe": ("load the driver, two cards", 2, "probes/s", 1.0, "probe"),
    "udp-64": ("send UDP, 60-byte frames, to nobody", _FRAMES, "frames/s", 1.0, "frame"),
    "udp-1500": ("send UDP, 1514-byte frames, to nobody", _FRAMES, "frames/s", 1.0, "frame"),
    "ping": ("ping the user network", _PINGS, "pings/s", 1.0, "ping"),
    "get": ("receive by TCP from the host", _GET // _FRAME, "MB/s", _FRAME / 1e6, "full frame"),
    "put": ("send by TCP to the host", _PUT // _FRAME, "MB/s", _FRAME / 1e6, "full frame"),
}


def _contestants(kernel: str, initrd: str, server: Server) -> dict[str, list[str]]:
    qemu = contestants.need("qemu-system-x86_64", "qemu-system-x86")
    line = f"console=ttyS0 quiet panic=-1 load={server.source},{server.sink},{_PUT},{_FRAMES},{_PINGS}"
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", line, "-m", "256", "-no-reboot"]
    pyvmm = [sys.executable, "-m", "pyvmm", "run"]
    pc = [qemu, "-M", "pc", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    wires = ["-netdev", "user,id=out", "-netdev", "user,id=nobody,restrict=on"]
    return {
        f"{name}, {card}": [*who, *boot, *wires, "-device", f"{device},netdev=out", "-device", f"{device},netdev=nobody"]
        for card, device in CARDS.items()
        for name, who in (("pyvmm", pyvmm), ("QEMU", pc))
    }


def _sample(command: list[str]) -> Mapping[str, float]:
    """One boot with all loads; keys are "load/quantity"."""
    found: dict[str, float] = {}
    for name, phase in phases.run(command, _LIMIT, status=None).items():
        _, count, _, scale, _ = _LOADS[name]
        found[f"{name}/rate"] = count * 1e9 * scale / phase.wall
        found[f"{name}/cpu"] = phase.cpu / count / 1000
        if phase.exits is not None:
            found[f"{name}/exits"] = phase.exits / count
        who = command[2] if "-m" in command[:2] else command[0]
        exits = f", {phase.exits / count:.2f} exits each" if phase.exits is not None else ""
        print(f"  {who}: {name}: {found[f'{name}/rate']:.2f} {_LOADS[name][2]}{exits}", file=sys.stderr, flush=True)
    if len({key.partition("/")[0] for key in found}) != len(_LOADS):
        raise phases.Failed(f"{' '.join(command)}: not all loads ran: {sorted(found)}")
    return found


def measure(rounds: int) -> Section:
    if emulates_ring0():
        raise Missing("this KVM interprets ring 0 and boots no stock Linux: see tests/bench/network_linux.py for host B")
    if missing := network.why_no_user():
        raise Missing(missing)
    kernel = debian.kernel("generic")
    program = contestants.compiled("netload", "-static").read_bytes()
    with tempfile.TemporaryDirectory() as scratch, Server(_GET) as server:
        initrd = Path(scratch, "initrd")
        extra = [*initramfs.modules(kernel, _MODULES, signed=False), cpio.file("netload", program, executable=True)]
        initrd.write_bytes(initramfs.build(_INIT, extra=extra))
        commands = _contestants(str(kernel.vmlinuz), str(initrd), server)
        who: dict[str, Measure] = {name: partial(_sample, command) for name, command in commands.items()}
        results = paired(who, rounds, warm=False)
    section = Section(
        name=NAME,
        title="Network loads, Linux",
        how="Debian's generic kernel with its own drivers, 1 vCPU, 256 MiB, `tests/bench/netload.c` in the guest; one boot per contestant "
        "and round, all loads in it. UDP goes into a `user` network that lets nothing out; pings and TCP go through `user` (libslirp in "
        "both) to a server of this process. One is a full frame of 1448 bytes, whatever the offloads make of it. "
        f"Median (quartiles, min), {rounds} round(s). Times by the clock of the host, CPU time of the whole VMM process with its guest, "
        "exits by the tracepoint `kvm:kvm_userspace_exit`.",
        header=["", "pyvmm", "QEMU", "pyvmm / QEMU"],
    )
    for card in CARDS:
        for name, (label, _, unit, _, each) in _LOADS.items():
            part: Results = {
                who: {key: results[f"{who}, {card}"][f"{name}/{key}"] for key in ("rate", "cpu", "exits")
                      if f"{name}/{key}" in results[f"{who}, {card}"]}
                for who in ("pyvmm", "QEMU")
            }  # fmt: skip
            section.rows += rows(f"{card}, {label}", unit, part, "pyvmm", "QEMU", each)
    section.raw = {who: {key: samples.values for key, samples in found.items()} for who, found in results.items()}
    return section
