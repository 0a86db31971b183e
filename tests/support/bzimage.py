"""Takes the ELF kernel (vmlinux) out of a Linux bzImage.

The boot protocol (Documentation/arch/x86/boot.rst, "payload_offset" and "payload_length", protocol 2.08)
says where the compressed kernel lies, so nothing is guessed: only its compressor is told from its magic.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib

_SETUP_SECTS = 0x1F1
_HEADER_MAGIC = 0x202
_VERSION = 0x206
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_LENGTH = 0x24C
_PAYLOAD_SINCE = 0x0208  # the protocol version that brought the two fields above
_EXTERNAL_TIMEOUT = 120


class BzImageError(Exception):
    """The file is no bzImage, or it is packed in a way that cannot be undone here."""


def payload(image: bytes) -> bytes:
    """The compressed kernel inside `image`, with the four size bytes that may follow it."""
    if len(image) < _PAYLOAD_LENGTH + 4 or image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise BzImageError("not a bzImage: no HdrS at 0x202")
    (version,) = struct.unpack_from("<H", image, _VERSION)
    if version < _PAYLOAD_SINCE:
        raise BzImageError(f"boot protocol {version >> 8}.{version & 0xFF:02} does not say where the payload is")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    # 0 sectors means 4, for the sake of loaders older than the field; one more is the boot sector itself.
    start = ((image[_SETUP_SECTS] or 4) + 1) * 512 + offset
    if length == 0 or start + length > len(image):
        raise BzImageError(f"payload of {length} bytes at {start:#x} is not inside the {len(image)}-byte image")
    return image[start : start + length]


def extract_vmlinux(image: bytes) -> bytes:
    """The uncompressed ELF kernel of a bzImage."""
    packed = payload(image)
    elf = _decompress(packed)
    if elf[:4] != b"\x7fELF":
        raise BzImageError("the payload does not hold an ELF file")
    return elf


def _decompress(packed: bytes) -> bytes:
    # Every compressor but gzip has the uncompressed size appended by the kernel's build, as four bytes.
    # The decompressors of Python stop before it; programs would take it for a second, broken stream.
    if packed.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(packed)
    if packed.startswith(b"\xfd7zXZ\0"):
        return _checked(lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(packed), packed)
    if packed.startswith(b"BZh"):
        return _checked(bz2.BZ2Decompressor().decompress(packed), packed)
    if packed.startswith(b"\x5d\0\0"):
        return _checked(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(packed), packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        return _checked(_external("zstd", packed[:-4]), packed)
    if packed.startswith(b"\x02\x21\x4c\x18"):
        return _checked(_external("lz4", packed[:-4]), packed)
    raise BzImageError(f"unknown compressor, the payload begins with {packed[:6].hex(' ')}")


def _checked(elf: bytes, packed: bytes) -> bytes:
    (expected,) = struct.unpack("<I", packed[-4:])
    if len(elf) != expected:
        raise BzImageError(f"unpacked {len(elf)} bytes, the image says {expected}")
    return elf


def _external(program: str, packed: bytes) -> bytes:
    path = shutil.which(program)
    if path is None:
        raise BzImageError(f"this kernel is packed with {program}: install the Debian package {program}")
    done = subprocess.run([path, "-dc"], input=packed, capture_output=True, timeout=_EXTERNAL_TIMEOUT, check=False)
    if done.returncode != 0:
        raise BzImageError(f"{program} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
