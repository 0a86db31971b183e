# Print the text that the check has put at physical address 0x12345; it ends with a zero byte.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        mov     ax, 0x1234
        mov     ds, ax
        mov     si, 5

        cld
        mov     dx, 0x3f8
next:   lodsb                           # AL = byte at DS:SI, SI = SI + 1
        test    al, al
        jz      done
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
