# Exercise 11.1: the setup header of a bzImage (boot.rst, "The Real-Mode Kernel Header"). All numbers are little-endian.
import struct

SECTORS = bytearray(0x400)
SECTORS[0x1F1] = 0x27  # setup_sects: sectors of 512 bytes, the boot sector not counted
SECTORS[0x1FE:0x200] = b"\x55\xaa"
SECTORS[0x202:0x208] = b"HdrS\x0f\x02"  # magic, version
SECTORS[0x236:0x238] = b"\x7f\0"  # xloadflags: bit 0, there is a 64-bit entry at 0x200
SECTORS[0x258:0x260] = struct.pack("<Q", 0x100_0000)  # pref_address

print("version", f"{SECTORS[0x207]}.{SECTORS[0x206]}")
print("begins at", hex((SECTORS[0x1F1] + 1) * 512))
print("entry", hex(struct.unpack_from("<Q", SECTORS, 0x258)[0] + 0x200))
