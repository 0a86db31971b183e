// string-io: OUTS and INS, the string forms of OUT and IN, in every width, against pc-testdev's latch: four ports,
// 0xe0..0xe3, that remember what was written to them.

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"
#define LATCH 0xe0
#define SIZE  5000                      // more than a page: a KVM may hand over many elements in one exit

MULTIBOOT_HEADER
        .globl  start
start:
        mov     esp, offset stack_top
        cld

        mov     esi, offset line        // a string instruction asks nobody whether the UART is ready; ours always is
        mov     ecx, line_end - line
        mov     dx, COM1
        rep outsb

        mov     dx, LATCH
        mov     eax, 0x12345678
        out     dx, eax
        in      eax, dx
        mov     bl, 1
        cmp     eax, 0x12345678
        jne     failed

        // Bytes: only the last one stays in the latch, so reading gives that one again and again.
        mov     esi, offset pattern
        mov     ecx, 16
        rep outsb
        mov     bl, 2
        cmp     esi, offset pattern + 16        // ESI has moved on,
        jne     failed
        test    ecx, ecx                        // ECX has run out
        jnz     failed
        mov     edi, offset buffer
        mov     ecx, SIZE
        rep insb
        mov     al, [pattern + 15]
        mov     edi, offset buffer
        mov     ecx, SIZE
        mov     bl, 3
        repe scasb                      // looks for the first byte that differs
        jne     failed
        cmp     byte ptr [edi], 0       // and nothing behind it was touched
        jne     failed

        // Words, to the upper half of the latch.
        mov     dx, LATCH + 2
        mov     esi, offset pattern
        mov     ecx, 7
        rep outsw
        mov     edi, offset buffer
        mov     ecx, SIZE / 2
        rep insw
        mov     ax, [pattern + 12]
        mov     edi, offset buffer
        mov     ecx, SIZE / 2
        mov     bl, 4
        repe scasw
        jne     failed

        // Double words, downwards: with the direction flag set, the first element is the last one written.
        mov     dx, LATCH
        std
        mov     esi, offset pattern + 12
        mov     ecx, 4
        rep outsd
        mov     edi, offset buffer + SIZE - 4
        mov     ecx, SIZE / 4
        rep insd
        cld
        mov     eax, [pattern]
        mov     edi, offset buffer
        mov     ecx, SIZE / 4
        mov     bl, 5
        repe scasd
        jne     failed

        // A count of zero is no access at all.
        mov     edi, offset buffer
        mov     byte ptr [edi], 0x99
        xor     ecx, ecx
        rep insb
        mov     bl, 6
        cmp     byte ptr [edi], 0x99
        jne     failed

        PRINT   "PASS\n"
        POWER_OFF_OR_RESET

failed: PRINT   "FAIL in check (1: is there a pc-testdev?) "
        movzx   eax, bl
        push    ebx
        call    putdec
        PRINT   "\n"
        pop     eax
        out     DEBUG_EXIT, al
        HALT_FOREVER

CONSOLE
NUMBERS

        .section .rodata
line:   .ascii  "string-io: this line left in one REP OUTSB\n"
line_end:
pattern:
        .byte   0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87, 0x98, 0xa9, 0xba, 0xcb, 0xdc, 0xed, 0xfe, 0x0f
        .bss
        .balign 4096
        .skip   4096 - 100              // not aligned, so that page boundaries fall inside
buffer: .skip   SIZE + 4
