# Exercise 8.1: be the device of a split virtqueue (Virtio 1.2, 2.7). Print a line for each buffer of the request that waits:
#     read 0x300 16        the device reads 16 bytes at 0x300
#     write 0x400 512      the device writes up to 512 bytes at 0x400
import struct

SIZE = 4  # descriptors; guest memory begins at address 0
TABLE, AVAILABLE, USED = 0x000, 0x040, 0x060
MEMORY = bytearray(0x1000)
MEMORY[0x000:0x010] = struct.pack("<QIHH", 0x800, 1, 2, 0)
MEMORY[0x010:0x020] = struct.pack("<QIHH", 0xA00, 512, 3, 0)
MEMORY[0x020:0x030] = struct.pack("<QIHH", 0x700, 16, 1, 1)
MEMORY[0x030:0x040] = struct.pack("<QIHH", 0x100, 99, 0, 0)
MEMORY[0x040:0x04C] = struct.pack("<HH4H", 0, 6, 3, 2, 0, 1)  # flags, idx, ring
MEMORY[0x060:0x064] = struct.pack("<HH", 0, 5)  # flags, idx

NEXT, WRITE = 1, 2

(available,) = struct.unpack_from("<H", MEMORY, AVAILABLE + 2)
(used,) = struct.unpack_from("<H", MEMORY, USED + 2)
(index,) = struct.unpack_from("<H", MEMORY, AVAILABLE + 4 + 2 * (used % SIZE))
while True:
    address, length, flags, following = struct.unpack_from("<QIHH", MEMORY, TABLE + 16 * index)
    print("write" if flags & WRITE else "read", hex(address), length)
    if not flags & NEXT:
        break
    index = following
