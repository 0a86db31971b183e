// modes: all the way up and down again: real mode, 32-bit protected mode, long mode with 32-bit and with 64-bit code,
// and back to real mode, a line of text at each stage. The order of the steps is the processor manuals'.

        .intel_syntax noprefix
#include "real.inc"
#include "console.inc"
#include "exit.inc"

#define CODE32  0x08
#define DATA32  0x10
#define CODE64  0x18
#define CODE16  0x20
#define DATA16  0x28
#define PML4    0x1000
#define PDPT    0x2000
#define PD      0x3000

REAL_MODE_START
        PRINT   "real mode\n", 16
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, CR0_PE
        mov     cr0, eax                // protected mode, though CS still is a real-mode segment
        jmp     CODE32:offset protected // loading CS is what changes the meaning of the code

        .code32
protected:
        mov     ax, DATA32
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x7c00             // the upper half of ESP was never set
        PRINT   "protected mode\n", 32

        mov     dword ptr [PML4], PDPT + PTE_PRESENT + PTE_WRITE        // the upper halves are 0: fresh memory
        mov     dword ptr [PDPT], PD + PTE_PRESENT + PTE_WRITE
        mov     dword ptr [PD], PTE_PRESENT + PTE_WRITE + PTE_LARGE     // the first 2 MiB, mapped to themselves
        mov     eax, cr4
        or      al, CR4_PAE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, MSR_EFER
        rdmsr
        or      ah, EFER_LME >> 8
        wrmsr
        mov     eax, cr0
        or      eax, CR0_PG             // PG with LME: long mode
        mov     cr0, eax
        PRINT   "long mode, 32-bit code\n", 32
        jmp     CODE64:offset long_mode

        .code64
long_mode:
        PRINT   "long mode, 64-bit code\n", 32
        push    CODE32                  // 64-bit mode has no direct far jump: return to where we never came from
        lea     rax, [rip + down]
        push    rax
        retfq

        .code32
down:   mov     eax, cr0                // paging may only be turned off outside 64-bit code
        and     eax, ~CR0_PG
        mov     cr0, eax
        mov     ecx, MSR_EFER
        rdmsr
        and     ah, ~(EFER_LME >> 8)
        wrmsr
        PRINT   "protected mode again\n", 32
        jmp     CODE16:offset protected16

        .code16
protected16:
        mov     ax, DATA16              // limits of 64 KiB: real mode keeps what the descriptor caches hold
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, cr0
        and     al, ~CR0_PE
        mov     cr0, eax
        jmp     0:offset real
real:   xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        PRINT   "real mode again\n", 16
        POWER_OFF

        .code16
CONSOLE 16
        .code32
CONSOLE 32                              // its bytes mean the same in 64-bit code, so that calls them too

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      // 0x08: code, 32 bits, 4 GiB
        .quad   0x00cf92000000ffff      // 0x10: data, 4 GiB
        .quad   0x00209a0000000000      // 0x18: code, 64 bits
        .quad   0x00009a000000ffff      // 0x20: code, 16 bits, 64 KiB
        .quad   0x000092000000ffff      // 0x28: data, 64 KiB
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
