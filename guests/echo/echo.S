// echo: gives back what is typed, looking at the line status register all the time: a whole processor busy waiting.

        .intel_syntax noprefix
#include "real.inc"
#include "console.inc"
#include "exit.inc"

REAL_MODE_START
        PRINT   "echo: type; q or Ctrl-D ends\n"
next:   mov     dx, COM1_LSR
        in      al, dx
        test    al, LSR_DATA_READY
        jz      next
        mov     dx, COM1
        in      al, dx
        cmp     al, 'q'
        je      quit
        cmp     al, 4                   // Ctrl-D
        je      quit
        call    putc                    // leaves the character in AL
        cmp     al, 13                  // Enter is a carriage return; add the line feed
        jne     next
        mov     al, 10
        call    putc
        jmp     next

quit:   PRINT   "\nbye\n"
        POWER_OFF

CONSOLE
