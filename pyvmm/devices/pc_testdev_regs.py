"""Register tables of pc-testdev. Section: QEMU hw/misc/pc-testdev.c, as kvm-unit-tests use it."""

from __future__ import annotations

from pyvmm.devices.device import Register

LATCH = (Register(name="LATCH", offset=0, size=4, access="rw", section="ioport"),)
FLUSH = (Register(name="FLUSH", offset=0, size=4, access="w", section="flush page"),)
IRQ_LINES = tuple(Register(name=f"IRQ{line}", offset=line, size=1, access="rw", section="irqs") for line in range(24))
MEMORY = (Register(name="MEMORY", offset=0, size=64 * 1024, access="rw", section="iomem"),)
