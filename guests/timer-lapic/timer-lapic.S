// timer-lapic: ten ticks of the local APIC's timer, in long mode. No port is involved: the APIC is memory.

        .intel_syntax noprefix
#include "long.inc"
#include "console.inc"
#include "exit.inc"
#define VECTOR   0x40
#define SPURIOUS 0xff
#define TICKS    10

LONG_MODE_START
IDT
main:   SET_GATE VECTOR, tick
        SET_GATE SPURIOUS, spurious
        lidt    [rip + idt_pointer]
        mov     al, 0xff                // mask the old interrupt controllers: they may not be ours to know
        out     PIC_MASTER + 1, al
        out     PIC_SLAVE + 1, al

        mov     ebp, LAPIC              // needs 32 bits unsigned; a displacement is signed
        mov     dword ptr [rbp + LAPIC_SVR], 0x100 + SPURIOUS           // bit 8: enable
        mov     dword ptr [rbp + LAPIC_TIMER_DIVIDE], 0x0b              // count every bus cycle
        mov     dword ptr [rbp + LAPIC_LVT_TIMER], (1 << 17) + VECTOR   // bit 17: again and again
        mov     dword ptr [rbp + LAPIC_TIMER_INITIAL], 10000000         // KVM's bus runs at 1 GHz: 10 ms
        PRINT   "LAPIC ticks:"
        sti
sleep:  hlt
more:   mov     eax, [rip + ticks]
        cmp     eax, [rip + printed]
        je      sleep
        inc     dword ptr [rip + printed]       // on a slow host, several ticks may have come while we printed
        PRINT   " "
        mov     eax, [rip + printed]
        call    putdec
        cmp     dword ptr [rip + printed], TICKS
        jb      more
        cli
        PRINT   " done\n"
        POWER_OFF_OR_RESET

tick:   inc     dword ptr [rip + ticks]
        mov     dword ptr [rbp + LAPIC_EOI], 0  // RBP: nobody else uses it
spurious:
        iretq

CONSOLE
NUMBERS

        .data
ticks:  .long   0
printed:
        .long   0
        .balign 8
gdt:    KERNEL_SEGMENTS
gdt_end:
