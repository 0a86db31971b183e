# Goes to protected mode and prints; should, at least.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1                   # PE
        mov     cr0, eax
        jmp     0x08:offset protected

        .code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     ss, ax
        cld
        mov     esi, offset message
        mov     dx, 0x3f8
next:   lodsb
        test    al, al
        jz      done
        out     dx, al
        jmp     next

done:   mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

message:
        .asciz  "protected\n"

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # 0x08: code, 32 bits, 4 GiB
        .quad   0x00cf92000000ffff      # 0x10: data, 4 GiB
gdt_pointer:
        .word   3 * 8 - 1               # limit: the offset of the table's last byte
        .long   gdt
