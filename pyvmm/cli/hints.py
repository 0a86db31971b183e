"""What to say about a word that there is not: the nearest one there is, or pyvmm's way to what QEMU's option does.

Imported for a message only: ``difflib`` costs more than the rest of a start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_DISKS = {
    "hda": "IDE disks", "hdb": "IDE disks", "hdc": "IDE disks", "hdd": "IDE disks", "cdrom": "CD-ROM drives", "fda": "floppy disks",
    "fdb": "floppy disks", "sd": "SD cards", "mtdblock": "flash chips",
}  # fmt: skip
_NONE = "this machine has none: leave it out"
_ALWAYS = "it makes no difference here: leave it out"
_INSTEAD = {  # an option of QEMU's that people type: what to do
    "acpitable": "ACPI tables cannot be added: leave it out",
    "action": "a guest's reset is followed, or ends the run with -no-reboot; a crash ends it",
    "audio": _NONE, "audiodev": _NONE, "soundhw": _NONE, "usb": _NONE, "usbdevice": _NONE, "tpmdev": _NONE,
    "blockdev": "write -drive file=FILE,format=raw,if=none,id=ID and -device virtio-blk-pci,drive=ID",
    "d": "--trace EVENTS tells what happens (pyvmm list has the events)", "D": "write --trace EVENTS,file=FILE",
    "daemonize": "write -serial file:FILE, and & behind the command",
    "dtb": "this is a PC: leave it out",
    "fsdev": "give the guest files on a -drive, or by the network (-nic user)",
    "virtfs": "give the guest files on a -drive, or by the network (-nic user)",
    "fw_cfg": "hand data to the guest by -append, -initrd or a -drive",
    "icount": "KVM runs a guest by real time: leave it out",
    "incoming": "write --load FILE, with a snapshot of pyvmm's (docs/snapshots.md)",
    "loadvm": "write --load FILE, with a snapshot of pyvmm's (docs/snapshots.md)",
    "k": "there is no keyboard but the serial port: leave it out",
    "curses": "the console is the serial port: leave it out", "sdl": "the console is the serial port: leave it out",
    "gtk": "the console is the serial port: leave it out", "spice": "the console is the serial port: leave it out",
    "mem-path": _ALWAYS, "mem-prealloc": _ALWAYS, "msg": _ALWAYS, "numa": "memory is one node: leave it out", "overcommit": _ALWAYS,
    "no-fd-bootchk": _ALWAYS, "no-hpet": "there is no HPET: leave it out", "tb-size": _ALWAYS, "uuid": _ALWAYS, "rtc": _ALWAYS,
    "no-acpi": "write -machine acpi=off",
    "no-shutdown": "the run ends when the guest powers off; -monitor and --load keep a machine",
    "option-rom": "a card's ROM is given with -device NAME,romfile=FILE",
    "pflash": "write -drive if=pflash,format=raw,unit=0,file=FILE (docs/firmware.md)",
    "pidfile": "the shell has it in $! after &; --json-log FILE says it too",
    "readconfig": "write its options on the command line", "writeconfig": "keep the command line in a script",
    "smbios": "there are no SMBIOS tables to set: leave it out",
    "version": "write pyvmm version",
    "watchdog": _NONE,
}  # fmt: skip


def instead(name: str, value: str) -> str:
    """What to write in place of one of QEMU's options that pyvmm lacks; "" for other words.

    Args:
        name: without dashes.
        value: what follows, for a disk's file.
    """
    if name in _DISKS:
        more = ",readonly=on" if name == "cdrom" else ""
        file = value.replace(",", ",,") or "FILE"
        return f"-{name}: there are no {_DISKS[name]}: write -drive file={file},format=raw,if=virtio{more} (Linux: /dev/vda)"
    return f"-{name}: not supported: {_INSTEAD[name]}" if name in _INSTEAD else ""


def unknown(argument: str, known: Iterable[str], command: str, value: str | None = None) -> str:
    """The line for an option that ``pyvmm COMMAND`` does not have.

    Args:
        argument: as it was typed.
        known: those it has, without dashes.
        command: its name.
        value: the word behind, where QEMU's options may be meant; None where they may not.
    """
    name, equals, given = argument.lstrip("-").partition("=")
    if value is not None and (said := instead(name, given if equals else value)):
        return said
    near = nearest(name, known)
    meant = f" (did you mean {argument[: len(argument) - len(argument.lstrip('-'))]}{near}?)" if near else ""
    lists = "lists" if value is None or command == "run" else "and pyvmm run -help list"
    return f"unknown option {argument}{meant}: pyvmm {command} -help {lists} what there is"


def nearest(word: str, known: Iterable[str]) -> str:
    """The word of ``known`` that was probably meant, or ""."""
    from difflib import get_close_matches

    return (get_close_matches(word, known, 1, 0.66) or [""])[0] if len(word) > 2 else ""
