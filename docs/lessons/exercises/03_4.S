# Which of the four serial ports are there? Print y or n for each.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax
        mov     ds, ax
        mov     si, offset ports
next:   mov     bx, [si]                # BX = base of a serial port; its scratch register is at BX + 7
        test    bx, bx
        jz      done

        mov     al, 'n'                 # Here: find out. The register keeps what is written to it; nobody keeps nothing.

        mov     dx, 0x3f8
        out     dx, al
        add     si, 2
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

ports:  .word   0x3f8, 0x2f8, 0x3e8, 0x2e8, 0
