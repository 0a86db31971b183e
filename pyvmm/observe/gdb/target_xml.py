"""The target description: the XML that tells gdb which registers there are (GDB manual, appendix G)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.gdb.registers import Description

# Bits by name from bit 0 on; "16:WP" jumps (SDM volume 1, 3.4.3 and 10.2.3; volume 3A, 2.2.1 and 2.5)
_FLAGS = {
    "i386_eflags": (4, "CF 2:PF 4:AF 6:ZF SF TF IF DF OF 14:NT 16:RF VM AC VIF VIP ID"),
    "i386_mxcsr": (4, "IE DE ZE OE UE PE DAZ IM DM ZM OM UM PM 15:FZ"),
    "cr0_bits": (8, "PE MP EM TS ET NE 16:WP 18:AM 29:NW CD PG"),
    "cr4_bits": (
        8,
        "VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 VMXE SMXE 16:FSGSBASE PCIDE OSXSAVE 20:SMEP SMAP PKE CET PKS",
    ),
    "efer_bits": (8, "SCE 8:LME 10:LMA NXE SVME 14:FFXSR"),
}
_VECTORS = (
    ("v4f", "ieee_single", 4),
    ("v2d", "ieee_double", 2),
    ("v16i8", "int8", 16),
    ("v8i16", "int16", 8),
    ("v4i32", "int32", 4),
    ("v2i64", "int64", 2),
)
_MEMBERS = (
    ("v4_float", "v4f"),
    ("v2_double", "v2d"),
    ("v16_int8", "v16i8"),
    ("v8_int16", "v8i16"),
    ("v4_int32", "v4i32"),
    ("v2_int64", "v2i64"),
    ("uint128", "uint128"),
)


def document(description: Description) -> bytes:
    """The whole description in one document."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append(f"<architecture>{description.architecture}</architecture>")
    for feature, registers in description.features:
        lines.append(f'<feature name="{feature}">')
        for kind in dict.fromkeys(each.type for each in registers):
            lines += _type(kind)
        for each in registers:
            group = f' group="{each.group}"' if each.group else ""
            kept = "" if each.saved else ' save-restore="no"'
            lines.append(f'<reg name="{each.name}" bitsize="{each.bits}" type="{each.type}"{group}{kept}/>')
        lines.append("</feature>")
    return "\n".join([*lines, "</target>", ""]).encode()


def _type(kind: str) -> list[str]:
    """Declares a type that gdb does not know by itself."""
    if kind == "vec128":
        vectors = [f'<vector id="{name}" type="{each}" count="{count}"/>' for name, each, count in _VECTORS]
        members = [f'<field name="{name}" type="{each}"/>' for name, each in _MEMBERS]
        return [*vectors, '<union id="vec128">', *members, "</union>"]
    if kind not in _FLAGS:
        return []
    size, names = _FLAGS[kind]
    fields, bit = [], 0
    for name in names.split():
        at, colon, rest = name.partition(":")
        if colon:
            bit, name = int(at), rest
        fields.append(f'<field name="{name}" start="{bit}" end="{bit}"/>')
        bit += 1
    return [f'<flags id="{kind}" size="{size}">', *fields, "</flags>"]
