"""Names of the bits in control registers, flags and page table entries."""

from __future__ import annotations

# from bit 0 on; "16:WP" jumps (SDM volume 3A, 2.2.1, 2.3, 2.5; volume 1, 3.4.3)
CR0 = "PE MP EM TS ET NE 16:WP 18:AM 29:NW CD PG"
CR4 = "VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 VMXE SMXE 16:FSGSBASE PCIDE OSXSAVE 20:SMEP SMAP PKE CET PKS"
EFER = "SCE 8:LME 10:LMA NXE SVME 14:FFXSR"
RFLAGS = "CF 2:PF 4:AF 6:ZF SF TF IF DF OF 14:NT 16:RF VM AC VIF VIP ID"
ENTRY = "P RW US PWT PCD A D PS G"  # volume 3A, 4.5.5; PS is PAT in a PT


def bits(value: int, names: str) -> str:
    """Names of the bits that are set, lowest first."""
    bit, found = 0, []
    for name in names.split():
        at, colon, rest = name.partition(":")
        if colon:
            bit, name = int(at), rest
        if value >> bit & 1:
            found.append(name)
        bit += 1
    return " ".join(found)
