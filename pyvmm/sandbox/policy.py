"""What a running machine needs of the host: files it may open again, and system calls, by what its configuration says.

Disks, consoles, networks, /dev/kvm and the program's own modules are open before the sandbox closes. Afterwards a reset opens /dev/kvm,
kernel, initrd and option ROMs again, the rest is reading, writing and waiting.
"""

from __future__ import annotations

import os
import sys

from pyvmm.kvm.system import DEVICE
from pyvmm.sandbox.landlock import READ, WRITE
from pyvmm.sandbox.seccomp import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.sandbox.seccomp import Tests

# <asm/unistd_64.h>. What CPython, the C library and pyvmm's threads call in a machine that runs.
_ALWAYS = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20,
    "access": 21, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "alarm": 37,
    "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
    "getcwd": 79, "unlink": 87, "readlink": 89, "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99,
    "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "rt_sigpending": 127, "rt_sigtimedwait": 128, "sigaltstack": 131,
    "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219,
    "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232,
    "epoll_ctl": 233, "openat": 257, "newfstatat": 262, "unlinkat": 263, "faccessat": 269, "pselect6": 270, "ppoll": 271,
    "set_robust_list": 273, "sync_file_range": 277, "epoll_pwait": 281, "timerfd_create": 283, "fallocate": 285, "timerfd_settime": 286,
    "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295, "pwritev": 296, "getrandom": 318, "membarrier": 324,
    "preadv2": 327, "pwritev2": 328, "statx": 332, "rseq": 334, "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441,
}  # fmt: skip
# On sockets that are there
_CONNECTED = {
    "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51, "getpeername": 52,
    "setsockopt": 54, "getsockopt": 55, "accept4": 288, "recvmmsg": 299, "sendmmsg": 307,
}  # fmt: skip
# New ones: -netdev user, and streams that connect again
_CONNECTING = {"connect": 42, "bind": 49, "listen": 50}
_SOCKET, _CLONE, _IOCTL, _PRCTL, _TGKILL, _PRLIMIT, _CLONE3 = 41, 56, 16, 157, 234, 302, 435
# Nobody here would call these: starting programs, looking into others, changing the system.
_FOREIGN = {
    "fork": 57, "vfork": 58, "execve": 59, "ptrace": 101, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116,
    "setresuid": 117, "setresgid": 119, "capset": 126, "personality": 135, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165,
    "umount2": 166, "swapon": 167, "reboot": 169, "init_module": 175, "delete_module": 176, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "execveat": 322,
    "userfaultfd": 323, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
_CLONE_THREAD = 0x1_0000  # <linux/sched.h>: a thread of this process, not another one
_KVM_REQUESTS = 0xAE  # KVMIO, the type byte of all of KVM's requests
# Terminals (not TIOCSTI, which types for the user), descriptors, block devices (discard, write zeroes)
_REQUESTS = (0x5401, 0x5402, 0x5403, 0x5404, 0x5409, 0x540B, 0x5411, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x1277, 0x127F, 0x802C_542A,
             0x402C_542B, 0x402C_542C, 0x402C_542D)  # fmt: skip
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_PR_SET_NAME = 15
_STREAMS = ("stream", "socket")


def rules(config: Config) -> Rules:
    """The system calls of a machine."""
    kinds = {net.kind for net in config.netdevs}
    families: tuple[int, ...] = ()
    if "user" in kinds:
        families = (_AF_INET, _AF_INET6)
    if kinds & set(_STREAMS):
        families = (*families, _AF_UNIX, _AF_INET, _AF_INET6)
    allow = [*_ALWAYS.values(), *_CONNECTED.values(), *(_CONNECTING.values() if families else ())]
    masked: dict[int, Tests] = {
        _IOCTL: [(1, 0xFF00, (_KVM_REQUESTS << 8,)), (1, 0xFFFF_FFFF, _REQUESTS)],
        _CLONE: [(0, _CLONE_THREAD, (_CLONE_THREAD,))],
        _TGKILL: [(0, 0xFFFF_FFFF, (os.getpid(),))],
        _PRCTL: [(0, 0xFFFF_FFFF, (_PR_SET_NAME,))],
        _PRLIMIT: [(2, 0xFFFF_FFFF, (0,))],  # only to ask: no new limits (the low half of a pointer; none lies at a multiple of 4 GiB)
        _SOCKET: [(0, 0xFFFF_FFFF, tuple(dict.fromkeys(families)))],
    }
    return Rules(allow, _FOREIGN.values(), [_CLONE3], masked)


def paths(config: Config) -> dict[str, int]:
    """Files that may be opened while the machine runs -> rights (``landlock``)."""
    found = {DEVICE: WRITE, "/dev/null": WRITE}
    for name in [config.boot.kernel, *_initrds(config), *(device.get("romfile") for device in config.devices)]:
        if name:
            found[os.path.abspath(name)] = READ
    if any(net.kind == "user" for net in config.netdevs):
        found["/etc/resolv.conf"] = READ  # libslirp looks whether the host's name server has changed
    # Code, for what is imported late (a debugger at a monitor); a plain run has all it needs by now: see ``enter.warm``.
    for folder in {*sys.path, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}:
        if folder and _is_code(folder):
            found[os.path.abspath(folder)] = READ
    return found


def _is_code(folder: str) -> bool:
    """A directory of Python's own, or of installed packages, or this package; not where a user happens to work."""
    parts = os.path.abspath(folder).split("/")
    return any(part.startswith("python3") for part in parts) or parts[-1] == "pyvmm"


def _initrds(config: Config) -> list[str]:
    """Files of ``-initrd``: Multiboot takes several, each perhaps with arguments behind a space."""
    names = [config.boot.initrd]
    if not os.path.exists(config.boot.initrd):
        names = [part.split(" ", 1)[0] for part in config.boot.initrd.split(",")]
    return [name for name in names if name]


def networked(config: Config) -> bool:
    """Whether TCP connections are made or taken while it runs."""
    return any(net.kind in ("user", *_STREAMS) for net in config.netdevs)
