"""``pyvmm run`` as a process on pipes: statuses, streams, back-pressure, and ends that need another process to be seen."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyvmm.machine import JOIN_SECONDS
from tests.support import vm
from tests.support.process import COMMAND, PATIENCE, ROOT, UNCOUNTED, read_until, started, wait_until

pytestmark = pytest.mark.kvm


def run(*arguments: str, stdin: bytes = b"", **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, "run", *arguments], input=stdin, capture_output=True, timeout=PATIENCE, cwd=ROOT, **options)  # type: ignore[call-overload, no-any-return]


def say(text: bytes, port: int = 0x3F8) -> bytes:
    """mov dx,port; then mov al,X; out dx,al for every byte."""
    return b"\x66\xba" + port.to_bytes(2, "little") + b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in text)


@pytest.fixture
def guest(tmp_path: Path) -> object:
    """Makes a 32-bit guest of machine code; returns what to put on the command line."""

    def make(code: bytes) -> tuple[str, ...]:
        (tmp_path / "guest").write_bytes(code + vm.HANG)
        return (str(tmp_path / "guest"), "-format", "flat32")

    return make


# --- statuses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "options", "status"),
    [
        ("66ba0406 66b80020 66ef", "", 0),  # S5
        ("b0fe e664", "-no-reboot", 0),  # keyboard controller: reset
        ("b006 66baf90c ee", "-no-reboot", 0),  # 0xcf9
        ("31c0 e7f4", "-device isa-debug-exit,iobase=0xf4,iosize=4", 1),
        ("b855000000 e7f4", "-device isa-debug-exit,iobase=0xf4,iosize=4", 0xAB),
        ("b8ffffffff e7f4", "-device isa-debug-exit,iobase=0xf4,iosize=4", 0xFF),
        ("b003 66ba0105 ee", "-device isa-debug-exit", 7),  # QEMU's default: two bytes at 0x501
        ("0f0b", "", 100),
        ("ebfe", "--timeout 0.5", 124),
        ("f4", "--timeout 0.5", 124),
    ],
)
def test_exit_status(guest: object, code: str, options: str, status: int) -> None:
    done = run(*guest(bytes.fromhex(code)), *options.split())  # type: ignore[operator]
    assert (done.returncode, done.stdout) == (status, b"")
    assert (done.stderr == b"") == (status not in (100, 124))
    assert b"Traceback" not in done.stderr


def test_a_reset_boots_again(guest: object, tmp_path: Path) -> None:
    # The RTC's alarm register survives nothing: the guest cannot know how often it ran. The console can.
    with started("run", *guest(say(b"up\n") + bytes.fromhex("b0fe e664"))) as process:  # type: ignore[operator]
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"up\nup\nup\n")
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run(number: int) -> None:
    with started("run", "hang") as process:
        assert process.stdout is not None and process.stderr is not None
        read_until(process.stdout.fileno(), b"hanging")
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
        assert process.stderr.read() == b""


def test_a_signal_during_start_up_ends_the_run() -> None:
    """At any moment from the first import to the running guest."""
    for delay in range(0, 400, 25):
        with started("run", "hang", "--timeout", "100") as process:
            time.sleep(delay / 1000)
            process.terminate()
            assert process.wait(PATIENCE) in (-signal.SIGTERM, 128 + signal.SIGTERM)


# --- bad input that only the machine notices ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-device isa-debug-exit,iobase=0x3f8", "isa-debug-exit overlaps serial0 iobase"),
        ("-device isa-debug-exit,iobase=0x3ff,iosize=2", "overlaps serial0"),
        ("-device isa-debug-exit,iobase=0xf4 -device isa-debug-exit,iobase=0xf5", "overlaps isa-debug-exit"),
        ("-device isa-debug-exit,iobase=0xffff,iosize=2", "0xffff does not exist iobase"),
        ("-device isa-debug-exit,iobase=0x10000,iosize=1", "0x10000 does not exist iobase"),
        ("-device isa-debug-exit,iobase=-1,iosize=1", "does not exist iobase"),
        ("-device isa-debug-exit,iobase=zzz", "iobase=zzz number"),
        ("-device isa-debug-exit,iobase=", "iobase= number"),
        ("-device isa-debug-exit,iobase=0x", "iobase=0x number"),
        ("-device isa-debug-exit,iosize=0", "iosize=0x0 1, 2 or 4"),
        ("-device isa-debug-exit,iosize=3", "iosize=0x3 1, 2 or 4"),
        ("-device isa-debug-exit,iosize=-1", "iosize 1, 2 or 4"),
        ("-device isa-debug-exit,chardev=x", "chardev iobase iosize"),
        ("-device pc-testdev,x=1", "pc-testdev 'x'"),
        ("-device pc-testdev -device pc-testdev", "pc-testdev overlaps leave"),
        ("-device pc-testdev -debugcon null", "pc-testdev overlaps leave"),
        ("-cpu nonsense", "nonsense qemu64"),
        ("-cpu host,+nonsense", "nonsense"),
    ],
)
def test_bad_input(options: str, words: str) -> None:
    done = run("hello", *options.split())
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    line = done.stderr.decode()
    assert line.startswith("pyvmm: ") and line.count("\n") == 1
    for word in words.split():
        assert word in line


def test_kvm_that_may_not_be_opened() -> None:
    """As a user outside the group kvm sees it."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    if os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("everybody may open this /dev/kvm")
    # The last thing before the device is opened: until then the interpreter's own files must be readable.
    program = (
        "import os, sys, pyvmm.machine as m, pyvmm.cli as c\n"
        "real = m.GuestMemory\n"
        "def late(*what):\n"
        "    os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "    return real(*what)\n"
        "m.GuestMemory = late\n"
        "sys.exit(c.main(['run', 'hello']))\n"
    )
    done = subprocess.run([COMMAND[0], "-c", program], capture_output=True, timeout=PATIENCE, cwd=ROOT, env=UNCOUNTED)
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    assert done.stderr.startswith(b"pyvmm: /dev/kvm: permission denied: add yourself to the group") and done.stderr.count(b"\n") == 1


# --- streams ------------------------------------------------------------------------------------------------------------
def test_piped_input() -> None:
    done = run("echo", stdin=b"abc\nq")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"echo: type; q or Ctrl-D ends\nabc\n\nbye\n"


@pytest.mark.parametrize(("way", "size"), [("pipe", 64 << 10), ("file", 16 << 10)])  # all that a pipe holds; several reads of a file
def test_much_input_arrives_complete_and_in_order(way: str, size: int, tmp_path: Path) -> None:
    text = b"".join(b"%07d." % number for number in range(size // 8))
    (tmp_path / "input").write_bytes(text + b"q")
    with open(tmp_path / "input", "rb") as file:
        stdin = {"stdin": file} if way == "file" else {"input": text + b"q"}
        done = subprocess.run([*COMMAND, "run", "echo"], stdout=subprocess.PIPE, timeout=10 * PATIENCE, cwd=ROOT, **stdin)  # type: ignore[call-overload]
    assert done.returncode == 0
    assert done.stdout.partition(b"ends\n")[2] == text + b"\nbye\n"


@pytest.mark.parametrize("stdin", ["/dev/null", "closed"])
def test_no_input(stdin: str) -> None:
    shell = "exec <&-" if stdin == "closed" else f"exec <{stdin}"
    command = ["sh", "-c", f'{shell}; exec "$@"', "sh", *COMMAND, "run", "hello"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Hello, world!")


def test_closed_stdout_and_stderr_do_not_send_the_console_into_a_descriptor_of_ours() -> None:
    done = subprocess.run(["sh", "-c", 'exec >&- 2>&-; exec "$@"', "sh", *COMMAND, "run", "hello"], timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0


def test_a_reader_that_goes_away() -> None:
    with started("run", "serial-poll") as process:
        assert process.stdout is not None and process.stderr is not None
        read_until(process.stdout.fileno(), b"0123456789")
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("coalesce", [(), ("-no-coalesce",)], ids=["coalesced", "byte by byte"])
def test_a_slow_reader_gets_everything(guest: object, coalesce: tuple[str, ...]) -> None:
    """More than a pipe holds: the VMM must wait for the reader, and what is left in the ring must not be lost at the end."""
    # mov esi,1M; mov ecx,100000; mov dx,0x3f8; rep outsb; power off; and behind it what is sent
    code = bytes.fromhex("be00001000 b9a0860100 66baf803 f36e") + vm.POWER_OFF
    image = code + os.urandom(100_000)
    with started("run", *guest(image), *coalesce) as process:  # type: ignore[operator]
        assert process.stdout is not None
        wait_until(lambda: _asleep(process.pid), "the pipe is full")
        got = b""
        while more := os.read(process.stdout.fileno(), 5000):
            got += more
            time.sleep(0.01)
        assert process.wait(PATIENCE) == 0
    assert got == image[:100_000]


@pytest.mark.parametrize("stderr", [subprocess.PIPE, subprocess.STDOUT], ids=["apart", "the same pipe"])
@pytest.mark.parametrize("coalesce", [(), ("-no-coalesce",)], ids=["coalesced", "byte by byte"])
def test_a_timeout_ends_a_run_whose_output_nobody_reads(guest: object, coalesce: tuple[str, ...], stderr: int) -> None:
    code = bytes.fromhex("66baf803 b058 ee ebfd")  # mov dx,0x3f8; mov al,'X'; out dx,al; jmp to the out
    with started("run", *guest(code), "--timeout", "2", *coalesce, stderr=stderr) as process:  # type: ignore[operator]
        start = time.monotonic()
        assert process.wait(PATIENCE) == 124
        assert time.monotonic() - start < 2 + JOIN_SECONDS + 20
        if process.stderr is not None:
            assert process.stderr.read() == b"pyvmm: timeout: no end after 2 s\n"


@pytest.mark.parametrize("stdout", ["pipe", "socket", "terminal"])
def test_a_signal_ends_a_run_whose_output_nobody_reads(guest: object, stdout: str) -> None:
    import socket

    sockets = socket.socketpair()
    pty = os.openpty()
    target = {"pipe": subprocess.PIPE, "socket": sockets[0].fileno(), "terminal": pty[1]}[stdout]
    code = bytes.fromhex("66baf803 b058 ee ebfd")
    with started("run", *guest(code), stdout=target) as process:  # type: ignore[operator]
        wait_until(lambda: _asleep(process.pid), "the writer waits")
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    for fd in pty:
        os.close(fd)
    for end in sockets:
        end.close()


def _asleep(pid: int) -> bool:
    """Whether the process has used no processor time for a while, after having used some."""

    def ticks() -> int:
        with open(f"/proc/{pid}/stat") as stat:
            return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))

    before = ticks()
    time.sleep(0.3)
    return before > 0 and ticks() - before <= 1 and len(os.listdir(f"/proc/{pid}/task")) > 1


def test_output_comes_while_the_guest_runs_not_at_its_end(guest: object) -> None:
    with started("run", *guest(say(b"now"))) as process:  # type: ignore[operator]
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"now")
        assert process.poll() is None


# --- consoles -----------------------------------------------------------------------------------------------------------
def test_a_killed_vmm_has_written_every_byte_to_its_file(guest: object, tmp_path: Path) -> None:
    log, text = tmp_path / "log", bytes(range(32, 127)) * 3
    for options in ((), ("-no-coalesce",)):
        with started("run", *guest(say(text)), "-serial", f"file:{log}", *options) as process:  # type: ignore[operator]
            wait_until(lambda: log.exists() and log.stat().st_size == len(text), "all bytes in the file")
            process.kill()
            process.wait()
        assert log.read_bytes() == text


def test_four_serial_ports_and_a_debug_console(guest: object, tmp_path: Path) -> None:
    said = {0x3F8: b"one", 0x2F8: b"two", 0x3E8: b"three", 0x2E8: b"four", 0xE9: b"dbg", 0x402: b"+"}
    code = b"".join(say(text, port) for port, text in said.items())
    files = [tmp_path / name for name in ("a", "b", "c")]
    serials = [word for path in files for word in ("-serial", f"file:{path}")]
    done = run(*guest(code + vm.POWER_OFF), *serials, "-serial", "stdio", "-debugcon", f"file:{tmp_path}/dbg")  # type: ignore[operator]
    assert (done.returncode, done.stdout) == (0, b"four")
    assert [path.read_bytes() for path in files] == [b"one", b"two", b"three"]
    assert (tmp_path / "dbg").read_bytes() == b"dbg+"


def test_no_serial_port_is_no_serial_port(guest: object) -> None:
    # in al,0x3fd; out 0xf4: an absent UART reads all-ones
    for options, status in ((("-nodefaults",), 0xFF), (("-serial", "none"), 0xFF), (("-serial", "null"), 0x60 << 1 | 1)):
        code = bytes.fromhex("66bafd03 31c0 ec e7f4")
        done = run(*guest(code), "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *options)  # type: ignore[operator]
        assert done.returncode == status & 0xFF
    done = run(*guest(say(b"second", 0x2F8) + vm.POWER_OFF), "-serial", "none", "-serial", "stdio", "-unclaimed")  # type: ignore[operator]
    assert (done.stdout, done.stderr) == (b"second", b"")


def test_a_pseudo_terminal() -> None:
    with started("run", "echo", "-serial", "pty") as process:
        assert process.stderr is not None
        name = read_until(process.stderr.fileno(), b"\n").split()[-1].decode()
        user = os.open(name, os.O_RDWR | os.O_NOCTTY)
        read_until(user, b"ends")
        os.write(user, b"hi\r")
        read_until(user, b"hi\r\n")
        os.close(user)
        user = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(user, b"again")
        read_until(user, b"again")
        os.write(user, b"q")
        assert process.wait(PATIENCE) == 0
        os.close(user)


def test_a_unix_socket_and_its_clients(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s"
    with started("run", "echo", "-serial", f"unix:{path},server=on,wait=off") as process:
        wait_until(path.exists, "the socket")
        for word in (b"one", b"two", b"three"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(word)
                read_until(client.fileno(), word)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"q")
            assert process.wait(PATIENCE) == 0
    assert not path.exists()


def test_waiting_for_a_client_loses_nothing(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s"
    with started("run", "hello", "-serial", f"unix:{path},server=on") as process, socket.socket(socket.AF_UNIX) as client:
        assert process.stderr is not None
        assert read_until(process.stderr.fileno(), b"\n") == f"waiting for a connection on {path}\n".encode()
        client.connect(str(path))
        assert read_until(client.fileno(), b"mode.\n").startswith(b"Hello, world!")
        assert process.wait(PATIENCE) == 0


# --- the rest -----------------------------------------------------------------------------------------------------------
def test_starting_paused_and_timeout() -> None:
    done = run("hello", "-S", "--timeout", "1")
    assert (done.returncode, done.stdout) == (124, b"")


def test_unclaimed_ports_are_listed(guest: object) -> None:
    done = run(*guest(bytes.fromhex("e410 e411 e510 a1000000d0") + vm.POWER_OFF), "-unclaimed")  # type: ignore[operator]
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        "pyvmm: unclaimed pio read 0x10 size 1: 1",
        "pyvmm: unclaimed pio read 0x10 size 4: 1",
        "pyvmm: unclaimed pio read 0x11 size 1: 1",
        "pyvmm: unclaimed mmio read 0xd0000000 size 4: 1",
    ]


def test_two_at_once_do_not_disturb_each_other() -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(run("serial-poll").stdout)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and results[0] == results[1] and len(results[0]) == 64 << 10


# --- disks --------------------------------------------------------------------------------------------------------------
def test_a_disk_is_locked_until_its_machine_is_dead(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    drive = ("-drive", f"file={tmp_path / 'disk'},format=raw,if=none")
    with started("run", "hang", *drive) as process:
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"hanging")
        done = run("hello", *drive)
        assert (done.returncode, done.stdout) == (2, b"") and b"it is locked: another program" in done.stderr
        assert run("hello", drive[0], drive[1] + ",locking=off").returncode == 0
        process.kill()
        process.wait(PATIENCE)
    done = run("hello", *drive)
    assert (done.returncode, done.stderr) == (0, b"")
