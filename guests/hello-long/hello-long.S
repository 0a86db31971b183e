// hello-long: a flat image started in 64-bit long mode, with page tables made by the VMM.

        .intel_syntax noprefix
#include "console.inc"
#include "exit.inc"

        .code64
        .globl  start
start:
        mov     esp, 0x7c00             // writing ESP clears the upper half of RSP
        cld
        PRINT   "Hello from 64-bit long mode! EFER = "
        mov     ecx, MSR_EFER           // bits 8 and 10: LME, long mode enabled, and LMA, active
        rdmsr
        call    puthex
        PRINT   ", page tables at "
        mov     rax, cr3
        call    puthex
        PRINT   "\n"
        POWER_OFF

CONSOLE
NUMBERS
