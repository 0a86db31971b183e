"""Statistics of a run: what the kernel counted beside what reached user space."""
