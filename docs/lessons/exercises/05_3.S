# 64-bit code at 1 MiB; CR3 has the tables that pyvmm made, in which the first 4 GiB are mapped to themselves.
# Map the page at physical 0x300000 to linear 0x8000000000. Memory from 0x200000 on is free, and zero.

        .intel_syntax noprefix
        .code64
        .globl  start
start:
        mov     rbx, cr3                # physical address of the PML4, which is its linear address as well

        # Here: three tables, and an entry in each of the four. Bit 0: present, bit 1: writable.

        mov     rsi, 0x8000000000
        cld
        mov     dx, 0x3f8
next:   lodsb
        test    al, al
        jz      done
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
