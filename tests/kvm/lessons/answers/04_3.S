# Adds 3 to a byte of a device, in 6 exits. Make it 2.

        .intel_syntax noprefix
        .code32
        .globl  start
start:
        mov     edi, 0xff000000         # pc-testdev's window
        add     byte ptr [edi], 3

        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
