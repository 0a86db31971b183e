// mmio: reads and writes of every width where there is no RAM: at an address nobody claims, and, if the machine has
// pc-testdev, in its window, which behaves like RAM but makes an exit of every access.

        .intel_syntax noprefix
#include "long.inc"
#include "console.inc"
#include "exit.inc"
#define NOBODY  0xf8000000
#define WINDOW  0xff000000

// Ends in FAIL \code unless \register holds \value.
.macro EXPECT register, value, code
        mov     rbx, \value
        cmp     \register, rbx
        mov     dil, \code
        jne     failed
.endm

// Ends in FAIL \code unless \register holds what nobody answers, as wide as \mask.
.macro EXPECT_NOBODY register, mask, code
        mov     rbx, \mask
        and     rbx, r12
        cmp     \register, rbx
        mov     dil, \code
        jne     failed
.endm

LONG_MODE_START
main:   PRINT   "unclaimed: "
        mov     ebp, NOBODY
        mov     dword ptr [rbp], 0      // goes nowhere
        mov     r12, [rbp + 16]
        cmp     r12, -1
        je      ones
        test    r12, r12
        mov     dil, 1
        jnz     failed
        PRINT   "zeros, as QEMU has it"
        jmp     widths
ones:   PRINT   "ones"                  // a PC's bus: lines that nobody drives are high
widths: xor     eax, eax
        mov     al, [rbp]               // as many bits as were asked for
        EXPECT_NOBODY rax, 0xff, 2
        mov     ax, [rbp + 2]
        EXPECT_NOBODY rax, 0xffff, 3
        mov     eax, [rbp + 4]
        EXPECT_NOBODY rax, 0xffffffff, 4
        mov     rax, [rbp + 8]
        EXPECT_NOBODY rax, -1, 5
        mov     eax, [rbp + 13]         // not aligned
        EXPECT_NOBODY rax, 0xffffffff, 6
        mov     eax, [rbp + 0xffe]      // across a page boundary: two exits of two bytes
        EXPECT_NOBODY rax, 0xffffffff, 7
        PRINT   "\n"

        PRINT   "pc-testdev window: "
        mov     ebp, WINDOW
        mov     byte ptr [rbp], 0x5a
        cmp     byte ptr [rbp], 0x5a
        je      present
        PRINT   "not there\n"
        POWER_OFF_OR_RESET

present:
        mov     rax, 0x1122334455667788
        mov     [rbp], rax              // 8 bytes in, every width out: little-endian
        xor     eax, eax
        mov     al, [rbp + 1]
        EXPECT  rax, 0x77, 11
        mov     ax, [rbp + 2]
        EXPECT  rax, 0x5566, 12
        mov     eax, [rbp + 4]
        EXPECT  rax, 0x11223344, 13
        mov     byte ptr [rbp], 0xaa    // every width in, 8 bytes out
        mov     word ptr [rbp + 2], 0xbbbb
        mov     dword ptr [rbp + 4], 0xcccccccc
        mov     rax, [rbp]
        EXPECT  rax, 0xccccccccbbbb77aa, 14
        add     byte ptr [rbp], 1       // read-modify-write: a read exit, then a write exit
        lock or dword ptr [rbp + 4], 0x33333333
        mov     rax, [rbp]
        EXPECT  rax, 0xffffffffbbbb77ab, 15
        mov     ecx, 0x1234
        xchg    [rbp], ecx
        EXPECT  rcx, 0xbbbb77ab, 16
        mov     edi, WINDOW + 0x100     // string instructions: one exit per element
        lea     rsi, [rip + text]
        mov     ecx, 16
        rep movsb
        mov     esi, WINDOW + 0x100     // from window to window: a read and a write exit each
        mov     edi, WINDOW + 0x200
        mov     ecx, 2
        rep movsq
        mov     rax, [rip + text + 8]
        mov     rcx, [rbp + 0x208]
        cmp     rax, rcx
        mov     dil, 17
        jne     failed
        PRINT   "ok\n"
        POWER_OFF_OR_RESET

failed: PRINT   "FAIL in check "
        movzx   eax, dil
        call    putdec
        PRINT   "\n"
        mov     al, dil
        out     DEBUG_EXIT, al
        HALT_FOREVER

CONSOLE
NUMBERS

        .data
text:   .ascii  "sixteen bytes..."
        .balign 8
gdt:    KERNEL_SEGMENTS
gdt_end:
