// trap-emulate: how the first virtual machine monitors worked, and what yours does when KVM hands it an exit. A program
// in ring 3 believes it owns the machine and writes to the serial port. Each OUT faults; the kernel looks at the
// instruction, does what it would have done, and lets the program go on behind it.

        .intel_syntax noprefix
#include "long.inc"
#include "console.inc"
#include "exit.inc"
#define USER_DATA  (0x18 + 3)           // selectors with the requested privilege level, 3, in bits 1:0
#define USER_CODE  (0x20 + 3)
#define TSS        0x28
#define GP         13                   // the general protection fault's vector
#define PROGRAM    0x400000             // where the program goes: the 2 MiB page there is its own
#define PROGRAM_STACK 0x600000          // the end of that page
#define OPCODE_OUT 0xee                 // OUT DX, AL
#define OPCODE_HLT 0xf4

// Where the fault handler finds what the processor pushed, above the registers it saves itself.
#define SAVED_AL   0
#define SAVED_DX   8
#define FRAME_RIP  24                   // above the error code
#define FRAME_CS   32

LONG_MODE_START
IDT
main:   SET_GATE GP, protection_fault
        lidt    [rip + idt_pointer]
        mov     dword ptr [rip + tss + 4], offset stack_top     // RSP0: the stack for faults from ring 3
        mov     eax, offset tss
        mov     [rip + gdt_tss + 2], ax
        shr     eax, 16
        mov     [rip + gdt_tss + 4], al
        mov     [rip + gdt_tss + 7], ah
        mov     ax, TSS
        ltr     ax

        mov     esi, offset program
        mov     edi, PROGRAM
        mov     ecx, program_end - program
        rep movsb
        or      dword ptr [rip + pd + (PROGRAM >> 21) * 8], PTE_USER
        mov     rax, cr3
        mov     cr3, rax                // forget old translations

        PRINT   "monitor: starting the program\n"
        push    USER_DATA               // as if an interrupt had come from there: SS, RSP, RFLAGS, CS, RIP
        push    PROGRAM_STACK
        push    2                       // IOPL is 0: no port is the program's
        push    USER_CODE
        push    PROGRAM
        iretq

protection_fault:
        push    rdx
        push    rax
        test    byte ptr [rsp + FRAME_CS], 3
        jz      ours
        inc     dword ptr [rip + traps]
        mov     rdx, [rsp + FRAME_RIP]
        mov     al, [rdx]               // the instruction that faulted
        cmp     al, OPCODE_HLT
        je      halted
        cmp     al, OPCODE_OUT
        jne     unknown
        mov     al, [rsp + SAVED_AL]
        mov     dx, [rsp + SAVED_DX]
        out     dx, al                  // a monitor with a device of its own would call that instead
        inc     qword ptr [rsp + FRAME_RIP]     // the instruction is done
        pop     rax
        pop     rdx
        add     rsp, 8                  // the error code
        iretq

halted: PRINT   "monitor: the program halted after "
        mov     eax, [rip + traps]
        call    putdec
        PRINT   " traps\n"
        POWER_OFF_OR_RESET
unknown:
        PRINT   "FAIL: no emulation for this instruction\n"
        FAIL    1
ours:   PRINT   "FAIL: general protection fault in the monitor\n"
        FAIL    2

// The program: nothing in it knows that it does not run on bare metal.
program:
        lea     rsi, [rip + text]
        mov     dx, COM1
print:  lodsb
        test    al, al
        jz      end
        out     dx, al
        jmp     print
end:    hlt
text:   .asciz  "Hello from a program that thinks it owns the machine\n"
program_end:

CONSOLE
NUMBERS

        .data
traps:  .long   0
        .balign 8
gdt:    KERNEL_SEGMENTS
        .quad   0x0000f20000000000      // 0x18: data, ring 3
        .quad   0x0020fa0000000000      // 0x20: code, ring 3, L
gdt_tss:
        .quad   0x0000890000000067, 0   // 0x28: available 64-bit TSS of 104 bytes, its address to be filled in
gdt_end:
        .balign 16
tss:    .fill   104
