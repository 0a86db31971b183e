"""Virtio 1.x devices: the ring (queue), what both transports share (core), the transports (pci, mmio), and the devices."""
