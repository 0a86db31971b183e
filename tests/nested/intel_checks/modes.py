"""Every way into a machine, by the real Machine: boot plan, entry, a guest that says where it finds itself, exit status."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from pyvmm import catalogue, events, status
from pyvmm.boot.detect import plan as make_plan
from pyvmm.config import BootConfig, Config, DeviceConfig
from pyvmm.machine import Machine
from tests.nested.intel_checks.report import Check, Failed
from tests.support.entry_guests import GUESTS, MEMORY, EntryGuest

SECONDS = 60.0  # a tiny guest needs one; a busy machine some more
FILE, CONSOLE, MESSAGES = Path("/tmp/guest"), Path("/tmp/console"), Path("/tmp/messages")
DEBUG_EXIT = DeviceConfig(name="isa-debug-exit", options=(("iobase", "0xf4"), ("iosize", "4")))

# Of the catalogue, those that enter or switch modes in a way of their own, and one that dies
CATALOGUE = ("hello", "hello-protected", "hello-long", "modes", "multiboot", "paging32", "ring3", "triple-fault")


def enter(guest: EntryGuest) -> str:
    """Boots an entry guest and compares plan, report and exit status."""
    FILE.write_bytes(guest.image)
    config = Config(
        boot=BootConfig(kernel=str(FILE), fmt=guest.fmt, address=guest.address), memory=MEMORY, serials=(), devices=(DEBUG_EXIT,)
    )
    plan = make_plan(config)
    if (plan.format, plan.mode) != (guest.format, guest.mode):
        raise Failed(f"planned as {plan.format} in {plan.mode} mode, not as {guest.format} in {guest.mode} mode")
    with Machine(config, [], plan) as machine:
        reason = machine.run(SECONDS)
    if reason.kind != events.DEBUG_EXIT:
        raise Failed(f"ended with {reason.kind}: {reason.detail}")
    if reason.value != guest.expected():
        raise Failed(f"the guest reports {reason.value:#x}, expected {guest.expected():#x}")
    if status.of(reason) != guest.expected() << 1 & 0xFF | 1:
        raise Failed(f"exit status {status.of(reason)}")
    return ""


def run_from_catalogue(name: str) -> str:
    """`pyvmm run NAME`, in this process: status and console output as the catalogue says."""
    from pyvmm.cli import main

    guest = catalogue.find(name)
    CONSOLE.write_bytes(b"")
    stderr = os.dup(2)
    with MESSAGES.open("wb") as messages:
        os.dup2(messages.fileno(), 2)
    try:
        got = main(["run", name, "-serial", f"file:{CONSOLE}", "--timeout", str(SECONDS)])
        sys.stderr.flush()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    told = MESSAGES.read_text()
    expected = status.CRASH if guest.expect_status == "crash" else guest.expect_status
    shown = CONSOLE.read_text("latin-1")
    if got != expected:
        raise Failed(f"status {got}, expected {expected}; it wrote {shown!r}, pyvmm {told!r}")
    if (got == status.CRASH) != ("triple fault" in told):
        raise Failed(f"status {got}, and pyvmm said {told!r}")
    at = 0
    for text in guest.expect_output:
        found = shown.find(text, at)
        if found < 0:
            raise Failed(f"{text!r} is missing in {shown!r}")
        at = found + len(text)
    return ""


def checks() -> list[Check]:
    """The entry guests, then the catalogue's."""
    return [
        *(Check(name=f"enter {guest.name} ({guest.mode} mode)", run=partial(enter, guest)) for guest in GUESTS),
        *(Check(name=f"pyvmm run {name}", run=partial(run_from_catalogue, name)) for name in CATALOGUE),
    ]
