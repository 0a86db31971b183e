"""The second descriptor: a VM. Memory slots, interrupt controllers, routing, doorbells, and the way to vCPUs.

Order that the kernel (or Intel's hardware) insists on: identity map before the first vCPU; irqchip before PIT and vCPUs.
"""

from __future__ import annotations

import os
from fcntl import ioctl
from struct import pack
from time import sleep

from pyvmm.errors import KvmError
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.ioctl import call, call_value
from pyvmm.threads import Lock, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.kvm.system import Kvm
    from pyvmm.kvm.vcpu import Vcpu

    Route = tuple[int, int, int, int] | tuple[int, int, int]


class Vm:
    """A KVM virtual machine: address space and interrupt fabric, no vCPU yet.

    Args:
        kvm: the /dev/kvm it came from (capabilities and mapping sizes are asked there).
        fd: the descriptor KVM_CREATE_VM returned; owned.
    """

    def __init__(self, kvm: Kvm, fd: int) -> None:
        self.kvm = kvm
        self.fd = fd
        self._reinjects = False

    def close(self) -> None:
        """Closes the descriptor; the VM dies with its last vCPU descriptor."""
        if self.fd >= 0:
            if self._reinjects:
                self._part_with_pit()
            os.close(self.fd)
            self.fd = -1

    def _part_with_pit(self) -> None:
        """Has the PIT give its two notifiers up, which the close would do as well, in 15 ms more often than not.

        Each takes a grace period (SRCU) of the interrupt routing, and the second, so soon behind the first, is one of those that the
        kernel takes its time for. Who sets a routing waits for one too, and asks for haste: beside that both are over in 1 or 2 ms
        as a rule, in 8 or more at times.
        """
        parted = Lock()
        parted.acquire()

        def part() -> None:
            block_signals()
            try:
                self.set_pit_reinject(False)
            except KvmError:
                pass  # the close will do it
            finally:
                parted.release()

        try:
            Thread(part).start()
        except RuntimeError:  # "can't start new thread"
            return
        try:
            while not parted.acquire(False):
                self.set_gsi_routing([], [])
                sleep(0)  # with the interpreter's lock to itself, this loop would not let the other thread begin
        except KvmError:
            parted.acquire()

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION for this VM."""
        return call(self.fd, uapi.KVM_CHECK_EXTENSION, capability)

    # --- memory ------------------------------------------------------------------------------------------------------
    def set_memory_region(self, slot: int, gpa: int, size: int, host_address: int, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION: maps ``size`` bytes (0 deletes the slot) of this process at ``gpa``."""
        call(self.fd, uapi.KVM_SET_USER_MEMORY_REGION, pack("<IIQQQ", slot, flags, gpa, size, host_address))

    def dirty_log(self, slot: int, pages: int) -> bytearray:
        """KVM_GET_DIRTY_LOG: one bit per page of the slot, rounded up to 64 pages; reading clears it."""
        bitmap = bytearray((pages + 63) // 64 * 8)
        address = structs.address_of(bitmap)
        call(self.fd, uapi.KVM_GET_DIRTY_LOG, structs.kvm_dirty_log(slot=slot, dirty_bitmap=address))
        return bitmap

    def set_tss_addr(self, gpa: int) -> None:
        """KVM_SET_TSS_ADDR: three pages outside RAM that VMX without unrestricted guest needs for real mode."""
        call_value(self.fd, uapi.KVM_SET_TSS_ADDR, gpa)

    def set_identity_map_addr(self, gpa: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one page outside RAM, same purpose. Before the first vCPU."""
        call(self.fd, uapi.KVM_SET_IDENTITY_MAP_ADDR, pack("<Q", gpa))

    # --- interrupts --------------------------------------------------------------------------------------------------
    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an I/O APIC, and a local APIC in every later vCPU."""
        call(self.fd, uapi.KVM_CREATE_IRQCHIP)

    def create_pit(self, flags: int = uapi.KVM_PIT_SPEAKER_DUMMY) -> None:
        """KVM_CREATE_PIT2: ports 0x40-0x43, and 0x61 with the speaker dummy."""
        call(self.fd, uapi.KVM_CREATE_PIT2, pack("<I60x", flags))
        self._reinjects = True

    def set_pit_reinject(self, reinject: bool) -> None:
        """KVM_REINJECT_CONTROL: whether lost PIT ticks are delivered later (lost_tick_policy=delay) or dropped (discard)."""
        call(self.fd, uapi.KVM_REINJECT_CONTROL, pack("<B31x", reinject))
        self._reinjects = reinject

    def irq_line(self, gsi: int, level: int) -> None:
        """KVM_IRQ_LINE: drives a GSI; an edge is 1 then 0."""
        call(self.fd, uapi.KVM_IRQ_LINE, pack("<II", gsi, level))

    def set_gsi_routing(self, irqchip: list[tuple[int, int, int]], msi: list[tuple[int, int, int]]) -> None:
        """KVM_SET_GSI_ROUTING: replaces the whole table.

        Args:
            irqchip: [(gsi, chip, pin)].
            msi: [(gsi, address, data)], address 64-bit.
        """
        table = [pack("<I4x", len(irqchip) + len(msi))]
        # struct kvm_irq_routing_entry: gsi, type, flags, padding, then a union of 32 bytes
        table += [pack("<II8xII24x", gsi, uapi.KVM_IRQ_ROUTING_IRQCHIP, chip, pin) for gsi, chip, pin in irqchip]
        table += [pack("<II8xQI20x", gsi, uapi.KVM_IRQ_ROUTING_MSI, address, data) for gsi, address, data in msi]
        call(self.fd, uapi.KVM_SET_GSI_ROUTING, bytearray(b"".join(table)))

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI: above 0 when delivered, 0 when the guest blocks it."""
        message = structs.kvm_msi(address_lo=address & 0xFFFF_FFFF, address_hi=address >> 32, data=data)
        return call(self.fd, uapi.KVM_SIGNAL_MSI, message)

    def msi(self, address: int, data: int) -> Callable[[], None]:
        """A function that sends this message (``irq.MakeMsi``): packed once, one ioctl per call, from any thread.

        A message no local APIC takes is lost, as on a PC: the guest wrote the address.
        """
        fd, request = self.fd, uapi.KVM_SIGNAL_MSI
        message = pack("<IIIII12x", address & 0xFFFF_FFFF, address >> 32, data, 0, 0)  # struct kvm_msi

        def send() -> None:
            try:
                ioctl(fd, request, message)
            except OSError:
                pass

        return send

    def irqfd(self, eventfd: int, gsi: int, resamplefd: int | None = None, deassign: bool = False) -> None:
        """KVM_IRQFD: writes to ``eventfd`` raise ``gsi``; with ``resamplefd`` a level that EOI drops and reports."""
        flags = (uapi.KVM_IRQFD_FLAG_DEASSIGN if deassign else 0) | (uapi.KVM_IRQFD_FLAG_RESAMPLE if resamplefd is not None else 0)
        call(self.fd, uapi.KVM_IRQFD, structs.kvm_irqfd(fd=eventfd, gsi=gsi, flags=flags, resamplefd=resamplefd or 0))

    def get_irqchip(self, chip: int) -> bytes:
        """KVM_GET_IRQCHIP: 512 bytes of state of a PIC or the I/O APIC."""
        state = bytearray(pack("<I4x512x", chip))  # struct kvm_irqchip
        call(self.fd, uapi.KVM_GET_IRQCHIP, state)
        return bytes(state[8:])

    def set_irqchip(self, chip: int, data: bytes) -> None:
        """KVM_SET_IRQCHIP with what ``get_irqchip`` gave."""
        call(self.fd, uapi.KVM_SET_IRQCHIP, pack("<I4x512s", chip, data))

    def get_pit(self) -> Any:
        """KVM_GET_PIT2 as a kvm_pit_state2."""
        state = structs.kvm_pit_state2()
        call(self.fd, uapi.KVM_GET_PIT2, state)
        return state

    def set_pit(self, state: Any) -> None:
        """KVM_SET_PIT2."""
        call(self.fd, uapi.KVM_SET_PIT2, state)

    def get_clock(self) -> Any:
        """KVM_GET_CLOCK as a kvm_clock_data: what kvmclock shows, in nanoseconds."""
        clock = structs.kvm_clock_data()
        call(self.fd, uapi.KVM_GET_CLOCK, clock)
        return clock

    def set_clock(self, nanoseconds: int) -> None:
        """KVM_SET_CLOCK."""
        call(self.fd, uapi.KVM_SET_CLOCK, structs.kvm_clock_data(clock=nanoseconds))

    # --- exits avoided -----------------------------------------------------------------------------------------------
    def ioeventfd(
        self, eventfd: int, address: int, length: int, datamatch: int | None = None, pio: bool = False, deassign: bool = False
    ) -> None:
        """KVM_IOEVENTFD: a write of ``length`` bytes (0: any) at ``address`` signals ``eventfd`` instead of exiting."""
        flags = (uapi.KVM_IOEVENTFD_FLAG_PIO if pio else 0) | (uapi.KVM_IOEVENTFD_FLAG_DEASSIGN if deassign else 0)
        if datamatch is not None:
            flags |= uapi.KVM_IOEVENTFD_FLAG_DATAMATCH
        request = structs.kvm_ioeventfd(datamatch=datamatch or 0, addr=address, len=length, fd=eventfd, flags=flags)
        call(self.fd, uapi.KVM_IOEVENTFD, request)

    def coalesce(self, address: int, size: int, pio: bool, on: bool = True) -> None:
        """KVM_(UN)REGISTER_COALESCED_MMIO: writes in the zone are queued in the ring page until the next exit."""
        zone = structs.kvm_coalesced_mmio_zone(addr=address, size=size, pio=pio)
        call(self.fd, uapi.KVM_REGISTER_COALESCED_MMIO if on else uapi.KVM_UNREGISTER_COALESCED_MMIO, zone)

    # --- the way down ------------------------------------------------------------------------------------------------
    def stats_fd(self) -> int:
        """KVM_GET_STATS_FD for the VM; the caller closes it."""
        return call(self.fd, uapi.KVM_GET_STATS_FD)

    def create_vcpu(self, index: int) -> Vcpu:
        """The third descriptor. ``index`` is the vCPU id and its initial APIC id."""
        from pyvmm.kvm.vcpu import Vcpu

        return Vcpu(self, index, call(self.fd, uapi.KVM_CREATE_VCPU, index))
