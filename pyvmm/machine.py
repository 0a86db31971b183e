"""The machine: the only place where descriptors, memory, buses, devices and boot plan are wired together.

``Machine(config)`` builds from top to bottom; ``run()`` starts a thread per vCPU and serves I/O until somebody asks to stop.

Threads and locks, outermost first:
  ``lock``   the machine lock: held around every device call, whether from a vCPU thread or from the I/O loop;
  ``parking`` a condition over ``reason``, ``_paused`` and who is parked; short, never held while calling a device.
A device may ask to stop (``request_stop``) with ``lock`` held: that takes only ``parking``.
"""

from __future__ import annotations

from time import monotonic, monotonic_ns

from pyvmm import events, layout
from pyvmm.bus import Bus
from pyvmm.csignal import signal
from pyvmm.errors import HostError, KvmError, PyvmmError
from pyvmm.events import StopReason, vmm_error
from pyvmm.ioloop import GuestClock, IoLoop
from pyvmm.irq import IrqLines
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import kick
from pyvmm.memory import GuestMemory
from pyvmm.poweron import irqchip_routes, set_boot_state, start_timer, wire_lapic, wire_pics
from pyvmm.runloop import RunLoop, Stop
from pyvmm.threads import Condition, Lock, Thread, block_signals, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.backends.console import Console
    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.boot.plan import BootPlan
    from pyvmm.cards import Cards
    from pyvmm.coalesce import CoalescedRing
    from pyvmm.config import Config
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.kvm.vm import Vm
    from pyvmm.snapshot.capture import Snapshot
    from pyvmm.snapshot.pages import Tracked
    from pyvmm.snapshot.quiesce import Quiet

KICK = signal.SIGRTMIN  # blocked in vCPU threads but inside KVM_RUN: no handler. Nobody sends it to a process; it would be lost here
_ALL_SIGNALS = (1 << 64) - 1
_MTRR_DEF_TYPE = 0x2FF
_MTRR_WRITE_BACK = 0x806  # enabled, default type write-back: what firmware leaves behind (SDM Vol 3A 12.11.2.1)
JOIN_SECONDS = 5  # how long the vCPU threads may take to end before shutdown goes on without them; likewise those of disks


class Machine:
    """A virtual machine from configuration to verdict.

    Args:
        config: what to build.
        consoles: one per ``config.serials``; owned by the caller, because they outlive a guest's reset.
        plan: the boot plan, when the caller has made it already; else it is made here.
        debugcon: where bytes to ports 0xe9 and 0x402 go, None for no such ports.
        sleeper: the machine whose run ended as WAKE: this one goes on with its memory, clock and wake-up events.
        drives, chardevs, netdevs: one for each of ``config``'s, by id; owned by the caller, as consoles are.

    Raises:
        HostError, ConfigError, ImageError: something for the user to correct.
        KvmError: the kernel refused.

    Attributes:
        memory, ports, mmio, lines, loop, devices, vcpus: the parts, for tests, debugger and tracers.
        reason: why it stopped, None while it runs.
    """

    def __init__(
        self,
        config: Config,
        consoles: list[Console],
        plan: BootPlan | None = None,
        debugcon: Console | None = None,
        sleeper: Machine | None = None,
        drives: dict[str, BlockBackend] | None = None,
        chardevs: dict[str, Console] | None = None,
        netdevs: dict[str, NetBackend] | None = None,
    ) -> None:
        self.config = config
        self.drives, self.chardevs, self.netdevs = drives or {}, chardevs or {}, netdevs or {}
        self.lock = Lock()
        self.reason: StopReason | None = None
        self.parking = Condition()  # a signal handler may stop the machine on top of its own thread
        self._paused = False
        self._held = 0  # how many look at the machine: as paused
        self.defer: Callable[[StopReason], bool] | None = None  # a debugger's: asked first; True: the run does not end now
        self.asleep = False  # S3
        self.wake_plan: BootPlan | None = None
        self._parked = 0
        self._threads: list[Thread] = []
        self._idents: list[int] = []  # pthread ids while a thread is inside its run loop, else 0
        if sleeper is not None:
            plan = sleeper.wake_plan
        if plan is None:
            from pyvmm.boot.detect import plan as make_plan

            plan = make_plan(config)
        self.plan = plan.replace(writes=[], rom=b"")  # once it is loaded, the image's mapping goes: RSS would have it twice
        self.memory: GuestMemory = GuestMemory(config.memory, plan.rom) if sleeper is None else sleeper.memory
        self.ports = Bus("pio", 0x1_0000)
        self.mmio = Bus("mmio", 1 << 64)
        if config.list_unclaimed:
            self.ports.unclaimed, self.mmio.unclaimed = {}, {}
        self.devices: dict[str, Any] = {}
        self.pci: PciBus  # made by populate
        self.cards: Cards | None = None  # likewise; None for a machine without
        self.coalesced: CoalescedRing | None = None  # likewise
        self.resting = Lock()  # held by who has it quiet
        self.quiet = 0  # his thread, else 0
        self.tracked: Tracked | None = None  # while ``track`` is on
        self.at_end: list[Callable[[], None]] = []  # called once when the run has ended, machine lock held
        self.vcpus: list[Vcpu] = []
        self.runloops: list[RunLoop] = []
        self._owned: list[Any] = []  # descriptors, for close(): the last first
        try:
            self.kvm: Kvm = self.own(Kvm())
            self.vm: Vm = self.own(self.kvm.create_vm())
            self.lines = IrqLines(self.vm.irq_line)
            self.loop: IoLoop = self.own(IoLoop(self.lock))
            self.clock: GuestClock = GuestClock(self.loop, 0 if sleeper is None else sleeper.clock.offset)
            self._build_kernel_side()
            from pyvmm.board import populate

            populate(self, consoles, debugcon)
            if sleeper is not None:
                self._keep(sleeper)
            self._load(plan)
            self._build_vcpus(plan)
        except BaseException:
            self.close()
            raise

    # --- building ----------------------------------------------------------------------------------------------------
    def own(self, part: Any) -> Any:
        """Has ``close`` close it, before what came earlier."""
        self._owned.append(part)
        return part

    def _build_kernel_side(self) -> None:
        options = dict(self.config.machine)
        vm = self.vm
        vm.set_identity_map_addr(self.plan.kernel_pages)  # Intel: before the first vCPU
        vm.set_tss_addr(self.plan.kernel_pages + layout.PAGE)
        # Slots first: once there is an irqchip, each waits for the kernel to quiesce (SRCU; median 4 ms until the guest starts)
        for slot in self.memory.slots:
            vm.set_memory_region(slot.number, slot.gpa, slot.size, slot.host_address, slot.flags)
        vm.create_irqchip()
        if options.get("pit", "on") != "off":
            vm.create_pit()
            if not self.config.pit_reinject:
                vm.set_pit_reinject(False)
            if self.plan.bios:
                start_timer(vm)
        vm.set_gsi_routing(irqchip_routes(), [])
        wire_pics(vm)

    def _load(self, plan: BootPlan) -> None:
        for gpa, data in plan.writes:
            self.memory.write(gpa, data)

    def _keep(self, sleeper: Machine) -> None:
        """What S3 does not take power from, beside memory: the clock with its battery, and the word of who woke us."""
        rtc = self.devices["rtc"]
        rtc.state = sleeper.devices["rtc"].state
        rtc.reset()  # the pin that comes with power: interrupts off
        self.devices["acpi-pm"].woken(sleeper.devices["acpi-pm"].state.status)

    def _build_vcpus(self, plan: BootPlan) -> None:
        from pyvmm import cpuid

        config = self.config
        model = self.cpu = cpuid.Cpuid(self.kvm, config.cpu or "host", config.smp)
        self.warnings = list(model.warnings)
        for index in range(config.smp):
            vcpu = self.own(self.vm.create_vcpu(index))
            self.vcpus.append(vcpu)
            self._idents.append(0)
            vcpu.set_cpuid(model.leaves(index))
            vcpu.set_msrs({_MTRR_DEF_TYPE: 0 if self.plan.format in ("uefi", "rom") else _MTRR_WRITE_BACK})  # set by it, from 0
            vcpu.use_signal_mask(_ALL_SIGNALS & ~(1 << KICK - 1))
            self.runloops.append(
                RunLoop(
                    vcpu,
                    self.ports,
                    self.mmio,
                    self.lock,
                    interrupted=lambda index=index: self._interrupted(index),  # type: ignore[misc]
                    unhandled=lambda reason, index=index: self._unhandled(index, reason),  # type: ignore[misc]
                )
            )
        for vcpu in self.vcpus:
            wire_lapic(vcpu)
        set_boot_state(self.vcpus[0], plan.state)

    # --- running -----------------------------------------------------------------------------------------------------
    def run(self, timeout: float | None = None, paused: bool = False) -> StopReason:
        """Runs the guest to its end on vCPU threads; the calling thread serves I/O.

        Args:
            timeout: seconds until the run is stopped as TIMEOUT.
            paused: do not run a guest instruction before ``resume`` (-S).

        Returns:
            Why it ended. vCPUs are off KVM_RUN then: their registers may be read until ``close``.

        Raises:
            HostError: the host gives no more threads.
        """
        self._paused = self._paused or paused  # somebody may have called pause() already
        if timeout is not None:
            late = StopReason(kind=events.TIMEOUT, detail=f"no end after {timeout:g} s")
            self.loop.deadline = self.loop.make_timer(lambda: self._give_up(late))
            self.loop.deadline.arm(monotonic_ns() + int(timeout * 1e9))
        try:
            self._start_threads()
            self.loop.run()
        finally:
            self.request_stop(StopReason(kind=events.QUIT, detail="stopped"))  # no effect when a reason stands
            self._join()
            if not self.hung:
                with self.lock:
                    for finish in self.at_end:
                        finish()
        assert self.reason is not None
        return self.reason

    def _start_threads(self) -> None:
        for index in range(len(self.vcpus)):
            thread = Thread(target=self._vcpu_thread, args=(index,))
            try:
                thread.start()
            except RuntimeError:  # "can't start new thread"
                raise HostError(f"no thread for vCPU {index}: lower -smp, or raise `ulimit -u` and `ulimit -v`") from None
            self._threads.append(thread)

    def _join(self) -> None:
        end = monotonic_ns() + int(JOIN_SECONDS * 1e9)
        for thread in self._threads:
            thread.join(max(end - monotonic_ns(), 0) / 1e9)
        if self.cards is not None:
            self.cards.stop(monotonic() + JOIN_SECONDS)

    @property
    def hung(self) -> bool:
        """Whether a thread did not end when told to: ``close`` does nothing then, and ``stuck`` says which."""
        return bool(self.stuck)

    @property
    def stuck(self) -> str:
        """Why ``hung`` is True, in words; "" as a rule."""
        if any(thread.is_alive() for thread in self._threads):
            return "a vCPU is stuck in a console write nobody reads"
        return "a disk of the host does not answer" if self.disk_hung else ""

    @property
    def disk_hung(self) -> bool:
        """Whether a thread that waits for the host's disks did not end: closing a drive would wait as well."""
        return self.cards is not None and self.cards.alive

    def crashed(self, error: BaseException) -> None:
        """Ends the run because of a bug in a thread of a device, or for want of such a thread. From any thread."""
        expected = isinstance(error, PyvmmError)
        self.request_stop(StopReason(kind=events.VMM_ERROR, detail=str(error)) if expected else vmm_error(error))

    def _vcpu_thread(self, index: int) -> None:
        block_signals()  # KICK opens in KVM_RUN
        with self.parking:
            self._idents[index] = get_ident()
        try:
            if not self.runloops[index].interrupted():  # -S, or stopped before it began
                self.runloops[index].run()
        except KvmError as error:
            self.request_stop(StopReason(kind=events.KVM_ERROR, detail=str(error), vcpu=index))
        except PyvmmError as error:
            self.request_stop(StopReason(kind=events.VMM_ERROR, detail=str(error), vcpu=index))
        except BaseException as error:  # the guest must not be able to show anybody a traceback
            self.request_stop(vmm_error(error, index))
        finally:
            with self.parking:
                self._idents[index] = 0
                self.parking.notify_all()

    def _interrupted(self, index: int) -> bool:
        """Parks the vCPU while paused. Returns True when the machine stops."""
        vcpu = self.vcpus[index]
        with self.parking:
            while signal.sigtimedwait((KICK,), 0) is not None:
                pass
            while (self._paused or self._held or self.asleep) and self.reason is None:
                self._parked += 1
                self.parking.notify_all()
                self.parking.wait()
                self._parked -= 1
            if self.reason is not None:
                return True
            vcpu.page[structs.RUN_IMMEDIATE_EXIT] = 0
        return False

    def _unhandled(self, index: int, exit_reason: int) -> None:
        page = self.vcpus[index].page
        if exit_reason == uapi.KVM_EXIT_SYSTEM_EVENT:
            kind = {uapi.KVM_SYSTEM_EVENT_SHUTDOWN: events.POWEROFF, uapi.KVM_SYSTEM_EVENT_RESET: events.RESET}.get(
                int.from_bytes(page[structs.RUN_UNION : structs.RUN_UNION + 4], "little"), events.CRASH
            )
            reason = StopReason(kind=kind, detail="KVM system event", vcpu=index)
        elif exit_reason == uapi.KVM_EXIT_HLT:
            reason = StopReason(kind=events.HALTED, detail="the guest halted", vcpu=index)
        else:
            name = uapi.EXIT_NAMES.get(exit_reason, f"unknown exit reason {exit_reason}")
            reason = StopReason(kind=events.CRASH, detail=name, vcpu=index)
        self.request_stop(reason)
        raise Stop

    # --- stop, pause, kick: from any thread --------------------------------------------------------------------------
    def request_stop(self, reason: StopReason) -> None:
        """Ends the run for ``reason``; the first reason stands. Returns at once."""
        if self.defer is not None and self.reason is None and self.defer(reason):
            return
        with self.parking:
            if self.reason is None:
                self.reason = reason
            self.parking.notify_all()
            self._kick_all()
            self.loop.stop()

    def stop(self, signal_number: int = 0) -> None:
        """Ends the run from outside (user, signal)."""
        self._give_up(StopReason(kind=events.QUIT, detail="stopped by the user", value=signal_number))

    def _give_up(self, reason: StopReason) -> None:
        """Ends the run without waiting for anybody who should read the guest's output."""
        self.loop.abandoned = True
        self.request_stop(reason)

    def pause(self) -> None:
        """Parks every vCPU outside KVM_RUN; returns when all are, or somebody resumes. Not from a vCPU thread, nor with the lock held."""
        with self.parking:
            self._paused = True
            self._kick_all()
            self.parking.wait_for(lambda: not self._paused or self._all_parked())

    def hold(self, on: bool, wait: bool = True) -> None:
        """``pause`` and ``resume`` once more, beside what the user says; counted. A vCPU's thread may wait if it ``stand``s."""
        with self.parking:
            self._held += 1 if on else -1
            if on:
                self._kick_all(get_ident() if wait else 0)
            self.parking.notify_all()
            if on and wait:
                self.parking.wait_for(self._all_parked)

    def stand(self, on: bool) -> None:
        """Has the calling vCPU's thread count as parked: its exit is settled, it is between two instructions."""
        with self.parking:
            self._parked += 1 if on else -1
            self.parking.notify_all()

    def _all_parked(self) -> bool:
        return self._parked >= sum(map(bool, self._idents)) or self.reason is not None

    def resume(self) -> None:
        """Lets the vCPUs go on."""
        with self.parking:
            self._paused = False
            self.parking.notify_all()

    def toggle_pause(self) -> None:
        """Pause or go on, without waiting for the vCPUs: for a key press in the I/O loop."""
        with self.parking:
            self._paused = not self._paused
            self._kick_all() if self._paused else self.parking.notify_all()

    def suspend(self) -> None:
        """S3: the vCPUs park, the I/O loop waits for what wakes the machine. For a device; returns at once."""
        with self.parking:
            self.asleep = True
            self._kick_all()

    def wake(self) -> None:
        """Out of S3: this machine ends, and the guest goes on in the next one, or boots anew if it left no waking vector."""
        from pyvmm.boot import resume

        self.wake_plan = resume.plan(self.memory)
        self.request_stop(StopReason(kind=events.WAKE if self.wake_plan else events.RESET, detail="woken from S3"))

    @property
    def paused(self) -> bool:
        """Whether ``pause`` is in force."""
        return self._paused

    # --- snapshots: lock not held, from any thread but a vCPU's (unless that has it quiet: ``snapshot.quiesce``) ---------
    def quiesce(self) -> Quiet:
        """``with machine.quiesce():`` has it at rest: vCPUs between two instructions, no request in flight, the lock held."""
        from pyvmm.snapshot.quiesce import Quiet

        return Quiet(self)

    def save(self) -> Snapshot:
        """The whole state at this moment; with ``track(True)`` at the price of what has changed. HostError: the run is over."""
        from pyvmm.snapshot import capture

        return capture.save(self)

    def load(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of this machine, or of another of the same configuration. ConfigError: it was of a different one."""
        from pyvmm.snapshot import capture

        capture.load(self, snapshot)

    def track(self, on: bool) -> None:
        """Has ``save`` and ``load`` go by what was written since the last one, rather than look at all memory."""
        from pyvmm.snapshot import capture

        capture.track(self, on)

    def set_link(self, name: str, up: bool) -> None:
        """Plugs in or pulls a network card's cable (by its name, or its netdev's). Any thread, ``lock`` not held. ConfigError: none."""
        from pyvmm import nics

        nics.set_link(self, name, up)

    def _kick_all(self, but: int = 0) -> None:
        for vcpu, ident in zip(self.vcpus, self._idents, strict=False):
            if ident and ident != but:
                vcpu.page[structs.RUN_IMMEDIATE_EXIT] = 1
                kick(ident, KICK)

    def close(self) -> None:
        """Frees descriptors and guest memory. Nothing while a vCPU thread is alive: it would go on with what others get next."""
        if self.hung:
            return
        with self.parking:  # a stop() on another thread must not wake a descriptor that is somebody else's by then
            while self._owned:
                self._owned.pop().close()
            if self.wake_plan is None:
                self.memory.close()  # else the next machine goes on with it

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
