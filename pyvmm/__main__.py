"""``python -m pyvmm`` and the ``pyvmm`` command."""

from pyvmm.cli import entry

if __name__ == "__main__":
    entry()
