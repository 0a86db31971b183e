"""Snapshots: a whole machine at rest, taken, put back, kept in a file. Nothing here is imported by a run that needs none."""
