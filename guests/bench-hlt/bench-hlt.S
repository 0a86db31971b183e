// bench-hlt: how long does it take to fall asleep and be woken? A thousand HLTs, each ended by a tick of the PIT, a
// thousand a second, then power off. The run takes a second; what matters is how much of it the host had to work.
// Without an interrupt controller in the kernel every HLT is an exit, and the run is as fast as the VMM starts it again.

        .intel_syntax noprefix
#include "real.inc"
#include "pic.inc"
#include "exit.inc"
#define COUNT 1000

REAL_MODE_START
        SET_VECTOR 0x20, tick
        PIC_START 0x20, 0xfe            // only IRQ 0
        PIT_START 1000
        mov     cx, COUNT
        sti
again:  hlt
        dec     cx
        jnz     again
        cli
        POWER_OFF

tick:   push    ax
        END_OF_INTERRUPT
        pop     ax
        iret
