// hello: the smallest guest that says something. A boot sector: 16-bit real mode, loaded at 0x7c00.
// It stands alone, without the shared includes, so that the whole program is on one screen.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax
        mov     ds, ax                  // addresses below are offsets from 0, as linked
        cld                             // LODSB walks forward
        mov     si, offset message

next:   lodsb                           // AL = the next character
        test    al, al
        jz      done
        mov     ah, al
        mov     dx, 0x3fd               // COM1's line status register: one exit to the VMM per look
poll:   in      al, dx
        test    al, 0x20                // may the UART take a character?
        jz      poll
        mov     al, ah
        mov     dx, 0x3f8               // COM1's transmit register: one exit per character
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               // ACPI power control: bit 13 is "sleep now", type 0 is "off"
        mov     ax, 0x2000
        out     dx, ax                  // the last exit: the VMM ends with status 0
halt:   hlt
        jmp     halt

message:
        .asciz  "Hello, world! This is a guest in 16-bit real mode.\n"
