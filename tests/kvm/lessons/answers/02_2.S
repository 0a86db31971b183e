# A boot sector that should print its message, but prints nothing: DS:SI is not where the message is. Repair DS.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax
        mov     ds, ax
        cld
        mov     si, offset message      #  the linker has counted from 0: message is 0x7c00 and some
        mov     dx, 0x3f8
next:   lodsb                           # AL = byte at DS:SI, SI = SI + 1
        test    al, al
        jz      done
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

message:
        .asciz  "segment times sixteen plus offset\n"
