# 64-bit code at 1 MiB; CR3 has the tables that pyvmm made, in which the first 4 GiB are mapped to themselves.
# Map the page at physical 0x300000 to linear 0x8000000000. Memory from 0x200000 on is free, and zero.

        .intel_syntax noprefix
        .code64
        .globl  start
start:
        mov     rbx, cr3                # physical address of the PML4, which is its linear address as well

        mov     qword ptr [rbx + 8], 0x200000 + 3
        mov     edi, 0x200000
        mov     qword ptr [rdi], 0x201000 + 3
        mov     qword ptr [rdi + 0x1000], 0x202000 + 3
        mov     qword ptr [rdi + 0x2000], 0x300000 + 1

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
