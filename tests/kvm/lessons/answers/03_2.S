# Prints 19 characters with 39 exits. Make it 20: pyvmm's UART is always ready.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax
        mov     ds, ax
        cld
        mov     si, offset message
next:   lodsb
        test    al, al
        jz      done
        mov     dx, 0x3f8
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

message:
        .asciz  "exits are not free\n"
