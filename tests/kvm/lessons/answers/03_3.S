# End with exit status 7.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        mov     al, 3
        out     0xf4, al
