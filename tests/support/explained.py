"""Runs a guest and explains its exits as they happen: for the golden transcripts, and for eyes (``python -m tests.support.explained``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pyvmm import catalogue, exits
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.net.backend import open_netdevs
from pyvmm.cli.options import Options
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.kind import emulates_ring0
from pyvmm.machine import Machine
from pyvmm.observe.explain.explain import Explanation, explain
from pyvmm.observe.explain.layout import Layout, states
from pyvmm.observe.explain.who import locate
from tests.support.vm import Collector

EXITS = (*uapi.EXIT_NAMES, 98)


def explanations(
    name: str, visit: Callable[[Explanation], None], limit: int, *arguments: str, repeats: int = 1 << 30, timeout: float = 120
) -> str:
    """Runs a catalogue guest, or whatever ``pyvmm run`` takes, and calls ``visit`` for each of its first exits, in order.

    Args:
        limit: how many.
        timeout: seconds.
        repeats: how many of those that one instruction makes at one address; more pass by unseen, and quickly.

    Returns:
        The guest's console output.
    """
    config = Options([name, "-no-reboot", *arguments]).config
    assert config is not None
    config = config.replace(coalesce=False)
    console = Collector()
    console.in_fd, keyboard = os.pipe()
    os.write(keyboard, catalogue.load()[name].input if name in catalogue.load() else b"")
    drives = {drive.id: open_drive(drive) for drive in config.drives}
    netdevs = open_netdevs(config.netdevs)
    try:
        with Machine(config, [console], drives=drives, netdevs=netdevs) as machine:
            _Watcher(machine, visit, limit, repeats)
            machine.run(timeout)
    finally:
        os.close(keyboard)
        os.close(console.in_fd)
        for drive in drives.values():
            drive.close()
        for netdev in netdevs.values():
            netdev.close()
    return console.output.decode("latin-1")


class _Watcher:
    """Wraps every entry of every run loop's table."""

    def __init__(self, machine: Machine, visit: Callable[[Explanation], None], limit: int, repeats: int) -> None:
        self.machine, self.visit, self.left, self.repeats = machine, visit, limit, repeats
        self.seen: dict[tuple[int, ...], int] = {}
        self.emulated = emulates_ring0()
        for index, loop in enumerate(machine.runloops):
            for number in EXITS:
                inner = loop.exits[number]
                loop.exits[number] = lambda index=index, inner=inner: self._exit(index, inner)  # type: ignore[misc]

    def _exit(self, index: int, inner: Callable[[], None]) -> None:
        if self.left <= 0:
            return inner()
        vcpu, machine = self.machine.vcpus[index], self.machine
        exit = exits.decode(vcpu.page)
        regs = vcpu.get_regs()
        place = (exit.number, regs.rip, exit.fields.get("port", exit.fields.get("address", 0)), machine.pci.state.address)
        self.seen[place] = self.seen.get(place, 0) + 1
        if self.seen[place] > self.repeats:
            return inner()
        self.left -= 1
        sregs = vcpu.get_sregs()
        with machine.lock:
            layout, before = Layout.of(machine), states(machine)
        site = locate(exit, regs, sregs, machine.memory, emulated=self.emulated)
        try:
            inner()
        finally:
            answer = None
            if exit.number == uapi.KVM_EXIT_IO and not exit.fields["direction"]:
                answer = exits.decode(vcpu.page).data
            elif exit.number == uapi.KVM_EXIT_MMIO and not exit.fields["is_write"]:
                answer = bytes(vcpu.page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + exit.fields["size"]])
            with machine.lock:
                after = states(machine)
            self.visit(explain(exit, layout, vcpu=index, regs=regs, sregs=sregs, site=site, before=before, after=after, answer=answer))


if __name__ == "__main__":
    from pyvmm.observe.explain.text import render

    def show(explanation: Explanation) -> None:
        print(explanation.line if "--lines" in sys.argv else render(explanation) + "\n")

    words = [word for word in sys.argv[3:] if word != "--lines"]
    explanations(sys.argv[1], show, int(sys.argv[2]), *words)
