"""Closing the sandbox around a process that has opened what it needs, and saying what this host offers for it."""

from __future__ import annotations

import os
from importlib import import_module

from pyvmm.errors import ConfigError, HostError
from pyvmm.record import FrozenRecord
from pyvmm.sandbox import landlock, policy, privileges, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

# What a run may come to need after its start, in ordinary and in bad moments: files of code are not opened any more afterwards.
WARM = (
    "errno", "fcntl", "select", "time", "traceback",
    "pyvmm.boot.resume", "pyvmm.devices.virtio.indirect", "pyvmm.exits", "pyvmm.kvm.entry_rules", "pyvmm.kvm.uapi", "pyvmm.net.frames",
    "pyvmm.nics", "pyvmm.observe.causes", "pyvmm.observe.crash", "pyvmm.observe.disasm", "pyvmm.observe.paging", "pyvmm.scatter",
)  # fmt: skip
WARM_OPTIONAL = ("capstone",)  # the crash report goes without


class Sandbox(FrozenRecord):
    """What ``-sandbox``, ``-runas`` and ``-chroot`` ask for.

    Fields:
        on: no new privileges, no capabilities, no core dumps; and, as far as these are true,
        landlock, seccomp: the two filters.
        runas: user to become, "" for none.
        chroot: new root directory, "" for none.
    """

    on: bool = False
    landlock: bool = True
    seccomp: bool = True
    runas: str = ""
    chroot: str = ""

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self.on or bool(self.runas or self.chroot)


def parse(texts: list[str], runas: str = "", chroot: str = "") -> Sandbox:
    """``-sandbox on|off[,landlock=on|off][,seccomp=on|off]``, with QEMU's suboptions where they ask for what is the case.

    Raises:
        ConfigError
    """
    given = {"on": False, "landlock": True, "seccomp": True}
    for text in texts:
        switch, *options = text.split(",")
        switch = switch.removeprefix("enable=")
        if switch not in ("on", "off"):
            raise ConfigError(f"-sandbox {text}: write -sandbox on|off[,landlock=on|off][,seccomp=on|off]")
        given["on"] = switch == "on"
        for option in options:
            key, _, value = option.partition("=")
            if key in ("landlock", "seccomp") and value in ("on", "off"):
                given[key] = value == "on"
            elif key in ("obsolete", "elevateprivileges", "spawn", "resourcecontrol"):
                if value != "deny":
                    raise ConfigError(f"-sandbox {option}: this sandbox always denies it: leave it out, or write {key}=deny")
            else:
                raise ConfigError(f"-sandbox {option}: not known; there are landlock=on|off and seccomp=on|off")
    if runas:
        privileges.User(runas)  # complains now rather than after the disks are open
    return Sandbox(**given, runas=runas, chroot=chroot)


def warm() -> None:
    """Imports what a running machine may come to need."""
    for name in WARM:
        import_module(name)
    for name in WARM_OPTIONAL:
        try:
            import_module(name)
        except ImportError:
            pass


def enter(config: Config, sandbox: Sandbox) -> None:
    """Gives up what ``sandbox`` says, for good. This thread must be the only one: filters hold for it and those it starts.

    Raises:
        ConfigError, HostError: this host cannot do it, or the user may not. Some of it may have been done.
    """
    warm()
    if len(os.listdir("/proc/self/task")) > 1:
        raise HostError("-sandbox: a thread is running already, which it would not hold")
    user = privileges.User(sandbox.runas) if sandbox.runas else None  # the password file is still there
    paths, rules = policy.paths(config), policy.rules(config)
    if sandbox.chroot:
        privileges.change_root(sandbox.chroot)
    if user is not None:
        user.become()
    if not sandbox.on:
        return
    privileges.limits()
    privileges.drop_capabilities()
    privileges.no_new_privileges()
    if sandbox.landlock:
        landlock.restrict(paths, policy.networked(config))
    if sandbox.seccomp:
        seccomp.install(rules.program())


def findings() -> list[tuple[str, bool, str]]:
    """What ``pyvmm check`` says: (layer, whether this host has it, in words)."""
    version = landlock.abi()
    known = {1: "files", 4: "files and TCP", 6: "files, TCP, signals"}
    covers = known[max((since for since in known if since <= version), default=1)]
    return [
        ("landlock", bool(version), f"ABI {version}: {covers}" if version else "not in this kernel, or not in its lsm= list"),
        ("seccomp", seccomp.available(), "system call filters" if seccomp.available() else "not in this kernel, or forbidden here"),
    ]
