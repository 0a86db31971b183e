"""Where a guest's disk ends: a file or a block device of the host, a temporary overlay over one, an empty scratch file."""
