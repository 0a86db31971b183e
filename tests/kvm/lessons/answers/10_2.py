# Exercise 10.2: a hook for the debugger. It is called after each exit; what returns True stops the guest there.
# exit.name is "KVM_EXIT_IO"; exit.fields["port"] and exit.data (bytes) say what was written where.
letters = 0


def on_exit(exit):
    global letters
    if exit.name == "KVM_EXIT_IO" and exit.fields["port"] == 0x3F8 and exit.data == b"o":
        letters += 1
        return letters == 3
    return False
