// timer-pit: ten ticks of the oldest timer of the PC, through the oldest interrupt controller, in the oldest mode.

        .intel_syntax noprefix
#include "real.inc"
#include "pic.inc"
#include "console.inc"
#include "exit.inc"
#define TICKS 10

REAL_MODE_START
        SET_VECTOR 0x20, tick           // IRQ 0
        PIC_START 0x20, 0xfe            // only IRQ 0
        PIT_START 100                   // every 10 ms
        PRINT   "PIT ticks:"
        sti
sleep:  hlt                             // each tick wakes us
more:   mov     ax, [ticks]
        cmp     ax, [printed]
        je      sleep
        inc     word ptr [printed]      // on a slow host, several ticks may have come while we printed
        PRINT   " "
        movzx   eax, word ptr [printed]
        call    putdec
        cmp     word ptr [printed], TICKS
        jb      more
        cli
        PRINT   " done\n"
        POWER_OFF

tick:   push    ax
        inc     word ptr [ticks]
        END_OF_INTERRUPT
        pop     ax
        iret

CONSOLE
NUMBERS

        .data
ticks:  .word   0
printed:
        .word   0
