// exit-code: ends the VMM with a status of its choice, through isa-debug-exit: 21 becomes (21 << 1) | 1 = 43.

        .intel_syntax noprefix
#include "real.inc"
#include "console.inc"
#include "exit.inc"

REAL_MODE_START
        PRINT   "exit with 21\n"
        mov     al, 21
        out     DEBUG_EXIT, al
        PRINT   "still here: no isa-debug-exit\n"       // nobody listened at this port
        POWER_OFF

CONSOLE
