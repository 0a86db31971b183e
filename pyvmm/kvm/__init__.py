"""The kernel's side of the machine: one file per KVM file descriptor, each creating the next.

``system`` (/dev/kvm) -> ``vm`` -> ``vcpu``; ``uapi`` and ``structs`` are <linux/kvm.h> in numbers and layouts.
"""
