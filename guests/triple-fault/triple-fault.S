// triple-fault: an exception whose handler cannot be reached, whose handler cannot be reached either, shuts the
// processor down. The VMM sees KVM_EXIT_SHUTDOWN and should say where it happened.

        .intel_syntax noprefix
#include "console.inc"
#include "exit.inc"

        .code32
        .globl  start
start:
        mov     esp, 0x7c00
        cld
        PRINT   "about to triple fault\n"
        mov     eax, 0xdeadbeef         // something to recognise in the report
        lidt    [no_vectors]
        ud2                             // #UD, then a double fault, then the third

CONSOLE

        .section .rodata
no_vectors:
        .fill   6                       // limit 0, base 0
