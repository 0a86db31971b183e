"""C types and the C library through ``_ctypes``, the compiled half of ``ctypes``.

The Python half is slow to import and offers nothing that KVM's calls need: the types below are all there is in
<linux/kvm.h>. Without it, and with structures made when named (structs.py), a start takes 104 million instructions by
valgrind's count, before 115.
"""

from __future__ import annotations

__all__ = [
    "Structure", "Union", "address_of", "addressof", "c_char", "c_char_p", "c_int", "function", "get_errno", "s16", "s32", "s64",
    "sizeof", "u8", "u16", "u32", "u64",
]  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _ctypes as _c
except ImportError:  # another Python than CPython
    import ctypes as _c  # type: ignore[no-redef]

Structure, Union, addressof, get_errno, sizeof = _c.Structure, _c.Union, _c.addressof, _c.get_errno, _c.sizeof

if hasattr(_c, "dlopen"):

    def _simple(code: str) -> Any:
        return type(f"c_{code}", (_c._SimpleCData,), {"_type_": code})

    c_char, c_char_p, c_int = _simple("c"), _simple("z"), _simple("i")
    u8, u16, u32, u64 = map(_simple, "BHIL")
    s16, s32, s64 = map(_simple, "hil")
    _CALL = _c.FUNCFLAG_CDECL | _c.FUNCFLAG_USE_ERRNO
    _Function: Any = type("_Function", (_c.CFuncPtr,), {"_flags_": _CALL, "_restype_": c_int})

    def function(name: str, *argtypes: Any) -> Any:
        """The C library's function ``name``, returning int and leaving errno to ``get_errno``."""
        found = _Function(_c.dlsym(_c.dlopen(None, 0), name))  # type: ignore[arg-type]  # None: this process
        found.argtypes = argtypes
        return found

else:
    from ctypes import CDLL, c_char, c_char_p, c_int
    from ctypes import c_int16 as s16
    from ctypes import c_int32 as s32
    from ctypes import c_int64 as s64
    from ctypes import c_uint8 as u8
    from ctypes import c_uint16 as u16
    from ctypes import c_uint32 as u32
    from ctypes import c_uint64 as u64

    def function(name: str, *argtypes: Any) -> Any:
        """The C library's function ``name``, returning int and leaving errno to ``get_errno``."""
        found = CDLL(None, use_errno=True)[name]
        found.argtypes = argtypes
        return found


def address_of(buffer: Any) -> int:
    """Host address of a writable buffer; valid while the caller holds it and does not resize it."""
    return int(addressof(c_char.from_buffer(buffer)))
