"""What pyvmm gives up before a guest runs its first instruction, so that one who breaks out of the guest finds little to break into.

``policy`` says what a configuration needs, ``landlock`` and ``seccomp`` have the kernel hold the process to it, ``privileges`` drops
users, capabilities and limits. docs/sandbox.md is the view from outside.
"""
