// hang: spins with interrupts off. No exit ever comes, so the VMM must be able to interrupt KVM_RUN by itself.

        .intel_syntax noprefix
#include "real.inc"
#include "console.inc"

REAL_MODE_START
        PRINT   "hanging\n"
        cli
spin:   pause
        jmp     spin

CONSOLE
