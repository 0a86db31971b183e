"""pyvmm: a qemu-like userspace KVM virtual machine monitor one can read in an afternoon."""

__version__ = "0.1.0"
