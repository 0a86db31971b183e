// From a Multiboot loader to C in long mode; an interrupt handler that does nothing but let HLT return.

        .intel_syntax noprefix
#include "long.inc"

#define VECTOR 0x40                     // as in virtio.h

        .globl  idt
        IDT
        .data
        .balign 8
gdt:    KERNEL_SEGMENTS
gdt_end:
        LONG_MODE_START
main:
        SET_GATE VECTOR, message
        lidt    [rip + idt_pointer]
        mov     eax, LAPIC
        mov     dword ptr [rax + LAPIC_SVR], 0x1ff      // enabled; spurious interrupts on vector 0xff
        mov     al, 0xff
        out     PIC_MASTER + 1, al      // the 8259As stay silent
        out     PIC_SLAVE + 1, al
        mov     edi, [rbx + MBI_CMDLINE]
        call    run                     // run(command line)

message:
        push    rax
        mov     eax, LAPIC
        mov     dword ptr [rax + LAPIC_EOI], 0
        pop     rax
        iretq
