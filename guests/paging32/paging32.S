// paging32: the paging of the 386: two levels, 4 KiB pages; 4 MiB pages of the Pentium for the rest; a page fault
// repaired in 32-bit code. A software KVM that only knows long mode's paging cannot run it.

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"
#define FAR_AWAY  0x80000000            // entry 512 of the page directory
#define PF        14                    // the page fault's vector
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10

MULTIBOOT_HEADER
        .globl  start
start:
        mov     esp, offset stack_top
        cld
        lgdt    [gdt_pointer]           // the loader's table may be gone by now; an interrupt would need it
        jmp     KERNEL_CODE:offset reloaded
reloaded:
        mov     ax, KERNEL_DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, offset page_fault
        mov     [idt + PF * 8], ax
        mov     word ptr [idt + PF * 8 + 2], KERNEL_CODE
        mov     word ptr [idt + PF * 8 + 4], 0x8e00     // present, ring 0, 32-bit interrupt gate
        shr     eax, 16
        mov     [idt + PF * 8 + 6], ax
        lidt    [idt_pointer]

        mov     dword ptr [directory], PTE_PRESENT | PTE_WRITE | PTE_LARGE      // the first 4 MiB, where we are
        mov     dword ptr [directory + (FAR_AWAY >> 22) * 4], offset table + (PTE_PRESENT | PTE_WRITE)
        mov     dword ptr [table], offset frame + (PTE_PRESENT | PTE_WRITE)
        mov     eax, cr4
        or      eax, CR4_PSE            // without it, the large bit is ignored
        mov     cr4, eax
        mov     eax, offset directory
        mov     cr3, eax
        mov     eax, cr0
        or      eax, CR0_PG
        mov     cr0, eax

        PRINT   "one page, two addresses: "
        mov     ebp, FAR_AWAY
        mov     dword ptr [ebp + 0x123], 0x600dcafe
        mov     eax, [frame + 0x123]
        call    puthex
        PRINT   "\n"
        mov     dword ptr [table], 0
        invlpg  [ebp]
        mov     eax, [ebp + 0x123]      // faults; the handler maps the page; the instruction is executed again
        cmp     eax, 0x600dcafe
        jne     wrong
        cmp     dword ptr [faults], 1
        jne     wrong
        PRINT   "PASS\n"
        POWER_OFF_OR_RESET
wrong:  PRINT   "FAIL\n"
        FAIL    1

page_fault:
        pusha
        inc     dword ptr [faults]
        PRINT   "page fault at "
        mov     eax, cr2
        call    puthex
        PRINT   ", error code "
        mov     eax, [esp + 32]         // above the eight registers
        call    puthex
        PRINT   "\n"
        mov     dword ptr [table], offset frame + (PTE_PRESENT | PTE_WRITE)
        mov     eax, cr2
        invlpg  [eax]
        popa
        add     esp, 4                  // the error code
        iret

CONSOLE
NUMBERS

        .bss
        .balign 4096
directory:
        .skip   4096
table:  .skip   4096
frame:  .skip   4096
idt:    .skip   (PF + 1) * 8
        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      // 0x08: code, 32 bits, 4 GiB
        .quad   0x00cf92000000ffff      // 0x10: data, 4 GiB
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   (PF + 1) * 8 - 1
        .long   idt
faults: .long   0
