"""The registers gdb is told of, in the order of its numbers (GDB manual G.5.5 i386 Features).

Two descriptions of the same state. AMD64 is for every guest, in every mode: one whose registers changed width with the CPU's mode
would break the connection. I386 is for a gdb that was given a 32-bit ELF file: it refuses AMD64 then.
"""

from __future__ import annotations

from pyvmm.record import FrozenRecord

_CORE = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_CORE_32 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_X87_CONTROL = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
_TABLES = ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "ldt", "tr")
_POINTERS = {"rbp": "data_ptr", "rsp": "data_ptr", "rip": "code_ptr", "eflags": "i386_eflags"}
_FLAGS = {"cr0": "cr0_bits", "cr4": "cr4_bits", "efer": "efer_bits"}


class Register(FrozenRecord):
    """One register.

    Fields:
        name: gdb's, e.g. "eip".
        bits: its width on the wire.
        type: gdb's, or one of the description's own.
        source: the name in ``Target.read_registers``, e.g. "rip".
        group: gdb's group, or "".
        saved: whether gdb saves and restores it around a call of a guest's function.
    """

    name: str
    bits: int
    type: str
    source: str
    group: str = ""
    saved: bool = True

    def encode(self, value: int | None) -> bytes:
        """Its bytes on the wire; of a wider value the low ones."""
        return ((value or 0) & (1 << self.bits) - 1).to_bytes(self.bits // 8, "little")


class Description(FrozenRecord):
    """A set of registers: architecture, [(feature, registers)]."""

    architecture: str
    features: tuple[tuple[str, tuple[Register, ...]], ...]

    @property
    def registers(self) -> list[Register]:
        """All, by gdb's numbers."""
        return [each for _, registers in self.features for each in registers]


def _register(source: str, bits: int, kind: str = "", group: str = "", name: str = "", saved: bool = True) -> Register:
    return Register(name=name or source, bits=bits, type=kind or f"int{bits}", source=source, group=group, saved=saved)


def _fpu() -> list[Register]:
    control = [_register(name, 32, "int", "float") for name in _X87_CONTROL]  # "int": what gdb's own descriptions say
    return [_register(f"st{n}", 80, "i387_ext") for n in range(8)] + control


def _sse(count: int) -> tuple[Register, ...]:
    vectors = [_register(f"xmm{n}", 128, "vec128", "vector") for n in range(count)]
    return (*vectors, _register("mxcsr", 32, "i386_mxcsr", "vector"))


def _system(word: int) -> list[Register]:
    def one(name: str, bits: int = word, kind: str = "") -> Register:
        return _register(name, bits, kind or f"uint{bits}", "system", saved=False)  # a call must not put an old CR3 back

    bases = [one(f"{name}_base") for name in ("cs", "ss", "ds", "es")]
    control = [one(name, 64, _FLAGS.get(name, "")) for name in _CONTROL]
    tables = [one(name, word if name.endswith("base") else 32) for name in _TABLES]
    return [*bases, one("k_gs_base", 64), *control, *tables]


def _amd64() -> Description:
    core = [_register(name, 32 if name == "eflags" else 64, _POINTERS.get(name, "")) for name in (*_CORE, "rip", "eflags")]
    core += [_register(name, 32) for name in _SEGMENTS] + _fpu()
    segments = tuple(_register(name, 64, "int", "general") for name in ("fs_base", "gs_base"))
    return Description(
        architecture="i386:x86-64",
        features=(
            ("org.gnu.gdb.i386.core", tuple(core)),
            ("org.gnu.gdb.i386.sse", _sse(16)),
            ("org.gnu.gdb.i386.segments", segments),
            ("org.pyvmm.system", tuple(_system(64))),
        ),
    )


def _i386() -> Description:
    core = [_register(name, 32, _POINTERS.get(name, ""), name="e" + name[1:]) for name in (*_CORE_32, "rip")]
    core += [_register("eflags", 32, "i386_eflags"), *(_register(name, 32) for name in _SEGMENTS)] + _fpu()
    bases = tuple(_register(name, 32, "uint32", "system", saved=False) for name in ("fs_base", "gs_base"))
    return Description(
        architecture="i386",
        features=(
            ("org.gnu.gdb.i386.core", tuple(core)),
            ("org.gnu.gdb.i386.sse", _sse(8)),
            ("org.pyvmm.system", (*bases, *_system(32))),
        ),
    )


AMD64 = _amd64()
I386 = _i386()
I8086 = I386.replace(architecture="i8086")  # no other has gdb disassemble 16-bit code: it takes `set architecture i8086` for words only
NAMES = tuple(each.source for each in AMD64.registers)
"""What ``Target.read_registers`` may give."""
