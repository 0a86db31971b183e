// hello-protected: a flat image started in 32-bit protected mode: flat segments, paging off.

        .intel_syntax noprefix
#include "console.inc"
#include "exit.inc"

        .code32
        .globl  start
start:
        mov     esp, 0x7c00             // memory below 640 KiB is ours
        cld
        PRINT   "Hello from 32-bit protected mode! CR0 = "
        mov     eax, cr0                // bit 0 is PE; bit 31, PG, is off
        call    puthex
        PRINT   "\n"
        POWER_OFF

CONSOLE
NUMBERS
