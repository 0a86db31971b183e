// paging: makes a page appear at a far address, takes it away, and repairs what then goes wrong in the page fault
// handler, as an operating system does for every page it gives out.

        .intel_syntax noprefix
#include "long.inc"
#include "console.inc"
#include "exit.inc"
#define FAR_AWAY 0x8000000000           // 512 GiB: entry 1 of the PML4, entry 0 of the three tables below
#define PF       14                     // the page fault's vector

LONG_MODE_START
IDT
main:   SET_GATE PF, page_fault
        lidt    [rip + idt_pointer]

        // Three more tables and a frame. Every entry: physical address of the next one, and permissions.
        mov     dword ptr [rip + pml4 + 8], offset far_pdpt + (PTE_PRESENT | PTE_WRITE)
        mov     dword ptr [rip + far_pdpt], offset far_pd + (PTE_PRESENT | PTE_WRITE)
        mov     dword ptr [rip + far_pd], offset far_pt + (PTE_PRESENT | PTE_WRITE)
        mov     dword ptr [rip + far_pt], offset frame + (PTE_PRESENT | PTE_WRITE)

        PRINT   "1. one page, two addresses: "
        mov     rbp, FAR_AWAY
        mov     dword ptr [rbp + 0x123], 0x600dcafe
        mov     eax, [rip + frame + 0x123]
        call    puthex
        PRINT   "\n"
        cmp     dword ptr [rip + frame + 0x123], 0x600dcafe
        jne     wrong

        PRINT   "2. unmapped, then read\n"
        mov     dword ptr [rip + far_pt], 0
        invlpg  [rbp]                   // the processor may have remembered the translation
        mov     eax, [rbp + 0x123]      // faults; the handler maps the page; the instruction is executed again
        cmp     eax, 0x600dcafe
        jne     wrong
        cmp     dword ptr [rip + faults], 1
        jne     wrong

        PRINT   "3. made read-only, then written\n"
        mov     dword ptr [rip + far_pt], offset frame + PTE_PRESENT
        invlpg  [rbp]
        mov     byte ptr [rbp + 0x456], 1       // a fault only because CR0.WP is set: this is ring 0
        cmp     byte ptr [rip + frame + 0x456], 1
        jne     wrong
        cmp     dword ptr [rip + faults], 2
        jne     wrong

        mov     eax, [rip + far_pt]
        and     eax, 0x60               // the processor noted: bit 5 accessed, bit 6 dirty
        cmp     eax, 0x60
        jne     wrong
        PRINT   "PASS\n"
        POWER_OFF_OR_RESET
wrong:  PRINT   "FAIL\n"
        FAIL    1

page_fault:
        push    rax
        push    rbx
        push    rcx
        push    rdx
        push    rsi
        inc     dword ptr [rip + faults]
        PRINT   "   page fault at "
        mov     rax, cr2                // the address that was accessed
        call    puthex64
        PRINT   ", error code "
        mov     eax, [rsp + 40]         // bit 0: the page is there; bit 1: a write; bit 2: by user code
        call    puthex
        PRINT   "\n"
        mov     dword ptr [rip + far_pt], offset frame + (PTE_PRESENT | PTE_WRITE)
        mov     rax, cr2
        invlpg  [rax]
        pop     rsi
        pop     rdx
        pop     rcx
        pop     rbx
        pop     rax
        add     rsp, 8                  // the error code: IRETQ does not know about it
        iretq

CONSOLE
NUMBERS
NUMBERS64

        .bss
        .balign 4096
far_pdpt:
        .skip   4096
far_pd: .skip   4096
far_pt: .skip   4096
frame:  .skip   4096
        .data
faults: .long   0
        .balign 8
gdt:    KERNEL_SEGMENTS
gdt_end:
