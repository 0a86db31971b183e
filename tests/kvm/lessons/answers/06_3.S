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

        mov     word ptr ds:[0x24 * 4], offset received
        mov     word ptr ds:[0x24 * 4 + 2], 0
        mov     al, 0x11
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xef
        out     0x21, al
        mov     al, 8
        mov     dx, 0x3fc
        out     dx, al
        mov     al, 1
        mov     dx, 0x3f9
        out     dx, al

        mov     al, 'r'
        mov     dx, 0x3f8
        out     dx, al

sleep:  sti
        hlt
        jmp     sleep

received:
        mov     dx, 0x3f8
        in      al, dx
        out     dx, al
        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
