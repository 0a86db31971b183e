// unclaimed: what a guest reads where no device answers: the bus floats, all lines are high, all bits are ones.

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"
#define PORT    0x1234
#define ADDRESS 0xf8000000

.macro SHOW text
        mov     ebp, eax
        PRINT   "\text"
        mov     eax, ebp
        call    puthex
        PRINT   "\n"
.endm

MULTIBOOT_HEADER
        .globl  start
start:
        mov     esp, offset stack_top
        cld
        mov     dx, PORT
        out     dx, al                  // goes nowhere
        xor     eax, eax
        in      al, dx
        SHOW    "port, byte:  "
        mov     dx, PORT
        xor     eax, eax
        in      ax, dx
        SHOW    "port, word:  "
        mov     dx, PORT
        in      eax, dx
        SHOW    "port, dword: "

        mov     edi, ADDRESS
        mov     byte ptr [edi], 0       // goes nowhere
        movzx   eax, byte ptr [edi]
        SHOW    "mmio, byte:  "
        movzx   eax, word ptr [edi]
        SHOW    "mmio, word:  "
        mov     eax, [edi]
        SHOW    "mmio, dword: "
        POWER_OFF_OR_RESET

CONSOLE
NUMBERS
