// hello-real: how a well-behaved boot sector starts, before it says hello.

        .intel_syntax noprefix
#include "console.inc"
#include "exit.inc"

        .code16
        .globl  start
start:
        cli                             // no interrupt between the two halves of SS:SP
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00              // the stack grows down from our first byte
        cld
        jmp     0:offset entered        // 0x7c00 may be 0000:7c00 or 07c0:0000; a far jump makes CS what we linked for
entered:
        PRINT   "Hello from real mode, loaded at "
        call    here                    // CALL pushes the address of what follows
here:   pop     ax
        sub     ax, here - start
        movzx   eax, ax
        call    puthex
        PRINT   "\n"
        POWER_OFF

CONSOLE
NUMBERS
