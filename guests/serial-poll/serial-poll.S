// serial-poll: how fast is the console? 64 KiB, a byte at a time, as a kernel's early printing does it: look whether
// the UART is free (one exit), write the byte (one exit, or none if the VMM lets the kernel collect the writes).

        .intel_syntax noprefix
#include "exit.inc"
#define LINE  64                        // characters, with the line feed
#define LINES (64 * 1024 / LINE)

        .globl  start
start:
        mov     ebx, LINES
line:   mov     ah, '0'                 // 0123...mn: no table, so no address that depends on where we are loaded
character:
        mov     dx, COM1_LSR
busy:   in      al, dx
        test    al, LSR_THR_EMPTY
        jz      busy
        mov     dx, COM1
        mov     al, ah
        out     dx, al
        inc     ah
        cmp     ah, '0' + LINE - 1
        jb      character
        mov     dx, COM1_LSR
last:   in      al, dx
        test    al, LSR_THR_EMPTY
        jz      last
        mov     dx, COM1
        mov     al, 10
        out     dx, al
        dec     ebx
        jnz     line
        POWER_OFF
