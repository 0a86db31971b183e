"""Recordings: what a guest did, exit by exit, in a file that explains itself on any machine with Python."""
