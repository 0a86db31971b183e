"""Named events, one line each: ``--trace PATTERN`` on any run, ``pyvmm list``."""
