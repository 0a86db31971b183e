# Copies 16 bytes from memory to a device, in 16 exits. Make it 4. (32-bit protected mode; all segments have base 0.)

        .intel_syntax noprefix
        .code32
        .globl  start
start:
        cld
        mov     esi, offset text
        mov     edi, 0xff000000         # pc-testdev's window
        mov     ecx, 4
        rep movsd

        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax

text:   .ascii  "sixteen bytes..."
