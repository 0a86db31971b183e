# Exercise 12.1: wait for five ticks without exits to user space. Loaded at 0x7c00 in real mode.
        .intel_syntax noprefix
        .code16
        .globl  start
start:  cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     word ptr ds:[0x20 * 4], offset tick     # vector 0x20: IRQ 0
        mov     word ptr ds:[0x20 * 4 + 2], ax
        mov     al, 0x11                # 8259A: ICW1 to ICW4, vectors from 0x20, then all but line 0 masked
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0x34                # 8254: counter 0, mode 2, 100 Hz
        out     0x43, al
        mov     al, 11931 & 0xff
        out     0x40, al
        mov     al, 11931 >> 8
        out     0x40, al
        sti

wait:   hlt
        cmp     word ptr ds:[ticks], 5
        jb      wait

        mov     dx, 0x3f8
        mov     al, '5'
        out     dx, al
        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

tick:   push    ax
        inc     word ptr ds:[ticks]
        mov     al, 0x20                # end of interrupt
        out     0x20, al
        pop     ax
        iret
ticks:  .word   0
