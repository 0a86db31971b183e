# Should print five dots, one per tick of the PIT, and switch off. It prints one dot. Repair it.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00

        mov     word ptr ds:[0x20 * 4], offset tick     # vector 0x20: offset, then segment
        mov     word ptr ds:[0x20 * 4 + 2], 0

        mov     al, 0x11                # PIC: ICW1, start
        out     0x20, al
        mov     al, 0x20                # ICW2: lines 0 to 7 are vectors 0x20 to 0x27
        out     0x21, al
        mov     al, 4                   # ICW3: the second PIC is at line 2
        out     0x21, al
        mov     al, 1                   # ICW4: 8086 mode
        out     0x21, al
        mov     al, 0xfe                # mask: only line 0
        out     0x21, al

        mov     al, 0x34                # PIT: counter 0, low byte then high byte, mode 2
        out     0x43, al
        mov     ax, 11931               # 100 Hz
        out     0x40, al
        mov     al, ah
        out     0x40, al

sleep:  sti
        hlt
        cmp     byte ptr [dots], 5
        jb      sleep

        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

tick:   push    ax
        push    dx
        mov     al, '.'
        mov     dx, 0x3f8
        out     dx, al
        inc     byte ptr [dots]
        mov     al, 0x20                # end of interrupt
        out     0x20, al
        pop     dx
        pop     ax
        iret

dots:   .byte   0
