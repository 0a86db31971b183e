"""Paired benchmarks against QEMU and a bare C loop: ``python -m tests.bench``. Results stand in docs/benchmarks.md."""
