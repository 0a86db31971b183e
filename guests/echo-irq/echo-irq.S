// echo-irq: gives back what is typed, asleep in HLT until the UART interrupts: the host's processor idles with us.

        .intel_syntax noprefix
#include "real.inc"
#include "pic.inc"
#include "console.inc"
#include "exit.inc"

REAL_MODE_START
        SET_VECTOR 0x24, received       // IRQ 4
        PIC_START 0x20, 0xef            // only IRQ 4
        mov     dx, COM1_MCR
        mov     al, 0x0b                // DTR, RTS, and OUT2: on a PC the gate between UART and interrupt controller
        out     dx, al
        mov     dx, COM1_IER
        mov     al, 0x01                // interrupt when a byte was received
        out     dx, al
        PRINT   "echo-irq: type; q or Ctrl-D ends\n"

sleep:  cli                             // look at the flag with interrupts off,
        cmp     byte ptr [finished], 0
        jne     quit
        sti                             // which takes effect after the next instruction: no interrupt can
        hlt                             // slip in between the look and the HLT and leave us asleep
        jmp     sleep

quit:   PRINT   "\nbye after "
        movzx   eax, word ptr [interrupts]
        call    putdec
        PRINT   " interrupts\n"
        POWER_OFF

received:
        push    ax
        push    dx
        inc     word ptr [interrupts]
more:   mov     dx, COM1_LSR
        in      al, dx
        test    al, LSR_DATA_READY      // one interrupt may stand for several bytes
        jz      empty
        mov     dx, COM1
        in      al, dx
        cmp     al, 'q'
        je      last
        cmp     al, 4                   // Ctrl-D
        je      last
        call    putc
        cmp     al, 13
        jne     more
        mov     al, 10
        call    putc
        jmp     more
last:   mov     byte ptr [finished], 1
empty:  END_OF_INTERRUPT
        pop     dx
        pop     ax
        iret

CONSOLE
NUMBERS

        .data
finished:
        .byte   0
interrupts:
        .word   0
