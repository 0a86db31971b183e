# Prints r (ready), waits for a key, prints it, and switches off. It waits by asking all the time. Let it sleep instead.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00

        # Here: vector 0x24; the PIC, with line 4 alone; OUT2 in MCR (0x3fc, bit 3); IER (0x3f9, bit 0).

        mov     al, 'r'
        mov     dx, 0x3f8
        out     dx, al

wait:   mov     dx, 0x3fd
        in      al, dx
        test    al, 1                   # is there a byte?
        jz      wait

        mov     dx, 0x3f8
        in      al, dx
        out     dx, al
        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
