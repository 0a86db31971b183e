"""``pyvmm run`` around a made-up machine: signals at every moment, resets, -S, --timeout, what is said at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm import cli, events
from pyvmm.backends.block.backend import open_drive
from pyvmm.bus import Bus
from pyvmm.cli import run
from pyvmm.cli.options import Options
from pyvmm.config import BootConfig, ChardevConfig, Config, DriveConfig, SerialConfig
from pyvmm.errors import ConfigError
from pyvmm.events import StopReason
from tests.support.process import descriptors

POWEROFF = StopReason(kind=events.POWEROFF)
RESET = StopReason(kind=events.RESET)
CONFIG = Config(boot=BootConfig(kernel="k"), serials=(SerialConfig(kind="null"),))


class FakeMachine:
    """Ends as the script says. A script entry is the reason, or a function of the machine that returns it."""

    script: list[StopReason | Callable[[FakeMachine], StopReason]] = []
    made: list[FakeMachine] = []
    while_building: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, config: Config, consoles: list[Any], debugcon: object = None, sleeper: object = None, **more: Any) -> None:
        self.config = config
        self.sleeper = sleeper
        self.more = more
        self.warnings: list[str] = []
        self.stopped: list[int] = []
        self.ran: tuple[float | None, bool] | None = None
        self.closed = False
        self.paused = False
        self.hung = False
        self.vcpus: list[Any] = []
        self.ports, self.mmio = Bus("pio", 1 << 16), Bus("mmio", 1 << 64)
        FakeMachine.made.append(self)
        FakeMachine.while_building()

    def pause(self) -> None:
        self.paused = True

    def run(self, timeout: float | None) -> StopReason:
        self.ran = timeout, self.paused
        if self.stopped:
            return StopReason(kind=events.QUIT, value=self.stopped[0])
        step = FakeMachine.script.pop(0)
        return step if isinstance(step, StopReason) else step(self)

    def stop(self, number: int = 0) -> None:
        assert not self.closed, "a machine that is gone was asked to stop"
        self.stopped.append(number)

    def __enter__(self) -> FakeMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeMachine]]:
    before = {number: signal.getsignal(number) for number in run._STOP_SIGNALS}
    FakeMachine.script, FakeMachine.made = [POWEROFF], []
    FakeMachine.while_building = staticmethod(lambda: None)
    monkeypatch.setattr(run, "Machine", FakeMachine)
    yield FakeMachine
    for number, handler in before.items():
        signal.signal(number, handler)


def session(**config: object) -> StopReason:
    made = run.Session(CONFIG.replace(**config))
    try:
        return made.run()
    finally:
        made.close()


def send(number: int, then: StopReason) -> Callable[[FakeMachine], StopReason]:
    def step(machine: FakeMachine) -> StopReason:
        signal.raise_signal(number)
        return StopReason(kind=events.QUIT, value=machine.stopped[0]) if machine.stopped else then

    return step


# --- signals ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", run._STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_a_signal_stops_the_machine(machine: type[FakeMachine], number: int) -> None:
    machine.script = [send(number, POWEROFF)]
    assert session().value == number


def test_after_a_sleep_the_next_machine_goes_on_from_the_sleeper(machine: type[FakeMachine]) -> None:
    """Also under -no-reboot: waking is no reset. A reset then forgets the sleeper."""
    machine.script = [StopReason(kind=events.WAKE), RESET]
    assert session(no_reboot=True) == RESET
    assert [each.sleeper for each in machine.made] == [None, machine.made[0]]
    machine.made, machine.script = [], [StopReason(kind=events.WAKE), RESET, POWEROFF]
    assert session() == POWEROFF
    assert [each.sleeper for each in machine.made] == [None, machine.made[0], None]


def test_a_signal_before_there_is_a_machine_is_kept(machine: type[FakeMachine]) -> None:
    machine.while_building = staticmethod(lambda: signal.raise_signal(signal.SIGTERM))
    assert session().value == signal.SIGTERM


def test_a_signal_between_reset_and_new_machine_stops_the_new_one(machine: type[FakeMachine]) -> None:
    class Closing(FakeMachine):
        def __exit__(self, *_: object) -> None:
            super().__exit__()
            signal.raise_signal(signal.SIGHUP)

    run.Machine = Closing  # type: ignore[misc, assignment]
    machine.script = [RESET]
    assert session().value == signal.SIGHUP
    assert len(machine.made) == 2


def test_the_first_of_two_signals_counts(machine: type[FakeMachine]) -> None:
    def both() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    machine.while_building = staticmethod(both)
    assert session().value == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_nohup_stays_nohup(machine: type[FakeMachine], number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    machine.script = [send(number, POWEROFF)]
    assert session().kind == events.POWEROFF
    assert signal.getsignal(number) == signal.SIG_IGN


def test_a_signal_after_the_end_is_harmless(machine: type[FakeMachine]) -> None:
    session()
    signal.raise_signal(signal.SIGTERM)


# --- resets, -S, --timeout ----------------------------------------------------------------------------------------------
def test_a_reset_builds_a_new_machine_on_the_same_consoles(machine: type[FakeMachine]) -> None:
    machine.script = [RESET, RESET, POWEROFF]
    assert session().kind == events.POWEROFF
    assert len(machine.made) == 3 and all(each.closed for each in machine.made)


def test_no_reboot(machine: type[FakeMachine]) -> None:
    machine.script = [RESET]
    assert session(no_reboot=True).kind == events.RESET
    assert len(machine.made) == 1


def test_only_the_first_machine_starts_paused(machine: type[FakeMachine]) -> None:
    machine.script = [RESET, POWEROFF]
    made = run.Session(CONFIG)
    made.run(paused=True)
    made.close()
    assert [each.ran for each in machine.made] == [(None, True), (None, False)]


def test_the_timeout_counts_over_all_resets_and_is_told_as_given(machine: type[FakeMachine]) -> None:
    machine.script = [RESET, RESET, StopReason(kind=events.TIMEOUT, detail="no end after 0.001 s")]
    made = run.Session(CONFIG)
    reason = made.run(timeout=1000.0)
    made.close()
    limits = [each.ran[0] for each in machine.made if each.ran is not None and each.ran[0] is not None]
    assert limits == sorted(limits, reverse=True) and 900 < limits[2] < limits[0] <= 1000
    assert reason.detail == "no end after 1000 s"


def test_a_timeout_that_is_over_already_still_is_one(machine: type[FakeMachine]) -> None:
    machine.script = [RESET, POWEROFF]
    made = run.Session(CONFIG)
    made.run(timeout=1e-9)
    made.close()
    assert all(each.ran is not None and each.ran[0] is not None and each.ran[0] > 0 for each in machine.made)


# --- what is said -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "status", "said"),
    [
        (POWEROFF, 0, ""),
        (StopReason(kind=events.DEBUG_EXIT, value=3, detail="x"), 7, ""),
        (StopReason(kind=events.QUIT, detail="stopped"), 0, ""),
        (StopReason(kind=events.QUIT, value=15), 143, ""),
        (StopReason(kind=events.TIMEOUT), 124, "pyvmm: timeout: no end after 5 s\n"),
        (StopReason(kind=events.KVM_ERROR, detail="KVM_RUN failed with EIO"), 102, "pyvmm: KVM_RUN failed with EIO\n"),
        (StopReason(kind=events.VMM_ERROR, detail="internal error: a\nb"), 104, "pyvmm: internal error: a\\nb\n"),
        (StopReason(kind=events.CRASH, detail="KVM_EXIT_SHUTDOWN"), 100, "pyvmm: the guest crashed: KVM_EXIT_SHUTDOWN\n"),
    ],
    ids=lambda value: value.kind if isinstance(value, StopReason) else "",
)
def test_the_end_is_told(machine: type[FakeMachine], reason: StopReason, status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    machine.script = [reason]
    assert cli.main(["run", "-kernel", "k", "-serial", "null", "--timeout", "5"]) == status
    assert capfd.readouterr() == ("", said)


def test_a_report_that_fails_does_not_hide_the_crash(machine: type[FakeMachine], capfd: pytest.CaptureFixture[str]) -> None:
    machine.script = [StopReason(kind=events.CRASH, detail="KVM_EXIT_SHUTDOWN", vcpu=0)]  # there is no vCPU to report on
    assert cli.main(["run", "-kernel", "k", "-serial", "null"]) == 100
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "IndexError" in err


def test_unclaimed_accesses_are_listed(machine: type[FakeMachine], capfd: pytest.CaptureFixture[str]) -> None:
    def probe(made: FakeMachine) -> StopReason:
        made.ports.unclaimed, made.mmio.unclaimed = {}, {}
        made.ports.write(0x10, 2, 0)
        made.ports.read(0x10, 1)
        made.ports.read(0x10, 1)
        made.mmio.read(0xD000_0000, 4)
        return POWEROFF

    machine.script = [probe]
    assert cli.main(["run", "-kernel", "k", "-serial", "null", "-unclaimed"]) == 0
    assert capfd.readouterr().err.splitlines() == [
        "pyvmm: unclaimed pio read 0x10 size 1: 2",
        "pyvmm: unclaimed pio write 0x10 size 2: 1",
        "pyvmm: unclaimed mmio read 0xd0000000 size 4: 1",
    ]


def test_warnings_are_told(machine: type[FakeMachine], capfd: pytest.CaptureFixture[str]) -> None:
    def build() -> None:
        machine.made[-1].warnings = ["the host has no x"]

    machine.while_building = staticmethod(build)
    session()
    assert capfd.readouterr().err == "pyvmm: warning: the host has no x\n"


def test_an_exception_closes_everything(machine: type[FakeMachine], capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    def broken(_: FakeMachine) -> StopReason:
        raise ZeroDivisionError("oh")

    machine.script = [broken]
    before = len(descriptors())
    assert cli.main(["run", "-kernel", "k", "-serial", f"file:{tmp_path}/log", "-serial", "pty"]) == 104
    assert len(descriptors()) == before
    assert machine.made[0].closed


def test_a_console_that_fails_closes_those_before_it(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    before = len(descriptors())
    assert cli.main(["run", "-kernel", "k", "-serial", f"file:{tmp_path}/log", "-serial", f"file:{tmp_path}"]) == 2
    assert len(descriptors()) == before


# --- disks --------------------------------------------------------------------------------------------------------------
def test_disks_stay_open_and_locked_through_resets(machine: type[FakeMachine], tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1024))
    drive = DriveConfig(id="d", file=str(tmp_path / "disk"))

    def check(made: FakeMachine) -> StopReason:
        with pytest.raises(ConfigError, match="locked"):
            open_drive(drive)
        made.more["drives"]["d"].write(0, [memoryview(b"x" * 512)])
        return RESET if len(machine.made) < 3 else POWEROFF

    machine.script = [check] * 3
    session = run.Session(CONFIG.replace(drives=(drive,)))
    assert session.run().kind == events.POWEROFF
    assert len({id(made.more["drives"]["d"]) for made in machine.made}) == 1
    session.close()
    session.close()
    assert session.drives == {}
    assert (tmp_path / "disk").read_bytes() == b"x" * 512 + bytes(512)
    open_drive(drive).close()


def test_a_disk_that_cannot_be_opened_lets_the_others_go(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1024))
    drives = (DriveConfig(id="d", file=str(tmp_path / "disk")), DriveConfig(id="e", file=str(tmp_path / "missing")))
    with pytest.raises(ConfigError, match="No such file"):
        run.Session(CONFIG.replace(drives=drives))
    open_drive(drives[0]).close()


def test_a_disk_that_cannot_be_flushed_is_told_of(machine: type[FakeMachine], capfd: pytest.CaptureFixture[str]) -> None:
    scratch = DriveConfig(id="d", format="scratch", size=512)
    session = run.Session(CONFIG.replace(drives=(scratch, scratch.replace(id="e"))))
    closed = []

    class Broken:
        name = "a.img"

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

        def close(self) -> None:
            closed.append(1)
            raise OSError(5, "")

    session.drives["d"].close()
    session.drives["d"] = Broken()  # type: ignore[assignment]
    session.close()
    assert closed == [1] and session.drives == {}
    assert capfd.readouterr().err == (
        "pyvmm: warning: a.img: Input/output error: what the guest wrote last may be lost; check the host's disk\n"
    )


def test_chardevs_are_consoles_that_stay(machine: type[FakeMachine], tmp_path: Path) -> None:
    chardev = ChardevConfig(id="c", backend=SerialConfig(kind="file", target=str(tmp_path / "log")))
    machine.script = [RESET, POWEROFF]
    session = run.Session(CONFIG.replace(chardevs=(chardev,)))
    session.run()
    assert machine.made[0].more["chardevs"]["c"] is machine.made[1].more["chardevs"]["c"]
    machine.made[0].more["chardevs"]["c"].write(b"hello")
    session.close()
    assert (tmp_path / "log").read_bytes() == b"hello"
    assert session.chardevs == {}


def test_networks_stay_open_through_resets(machine: type[FakeMachine], tmp_path: Path) -> None:
    path = tmp_path / "s"
    machine.script = [RESET, POWEROFF]
    words = ["-kernel", "k", "-nic", f"stream,addr.type=unix,addr.path={path},server=on,pcap={tmp_path / 'd'}", "-nic", "hubport"]
    config = Options(words).config
    assert config is not None
    session = run.Session(config)
    assert path.exists()
    session.run()
    assert list(session.netdevs) == ["net0", "net1"]
    assert all(each.more["netdevs"] is session.netdevs for each in machine.made) and len(machine.made) == 2
    session.close()
    session.close()
    assert not path.exists() and session.netdevs == {}


def test_a_network_that_cannot_be_had_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = f"stream,addr.type=unix,addr.path={path},server=on"
    config = Options(["-kernel", "k", "-nic", first, "-nic", "stream,addr.type=unix,addr.path=/no/such"]).config
    assert config is not None
    with pytest.raises(ConfigError, match="/no/such"):
        run.Session(config)
    assert not path.exists()
