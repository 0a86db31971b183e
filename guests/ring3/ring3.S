// ring3: a kernel of one page. It loads a program, drops to ring 3 to run it, serves its system calls, and survives
// when the program oversteps its rights.

        .intel_syntax noprefix
#include "long.inc"
#include "console.inc"
#include "exit.inc"
#define USER_DATA  (0x18 + 3)           // selectors with the requested privilege level, 3, in bits 1:0
#define USER_CODE  (0x20 + 3)
#define TSS        0x28
#define GP         13                   // the general protection fault's vector
#define PROGRAM    0x400000             // where the program goes: the 2 MiB page there is the user's
#define USER_STACK 0x600000             // the end of that page
#define SYS_EXIT   0
#define SYS_WRITE  1

LONG_MODE_START
IDT
main:   SET_GATE GP, protection_fault
        lidt    [rip + idt_pointer]

        // An interrupt that arrives in ring 3 must not use ring 3's stack: the TSS says which one instead.
        mov     dword ptr [rip + tss + 4], offset stack_top     // RSP0
        mov     eax, offset tss
        mov     [rip + gdt_tss + 2], ax
        shr     eax, 16
        mov     [rip + gdt_tss + 4], al
        mov     [rip + gdt_tss + 7], ah
        mov     ax, TSS
        ltr     ax

        // What SYSCALL does: CS and SS from STAR, RIP from LSTAR, flags in SFMASK cleared.
        mov     ecx, MSR_EFER
        rdmsr
        or      eax, EFER_SCE           // without it, SYSCALL is an invalid opcode
        wrmsr
        mov     ecx, MSR_STAR
        xor     eax, eax
        mov     edx, KERNEL_CODE + (KERNEL_DATA << 16)          // SYSRETQ: SS = 0x10 + 8, CS = 0x10 + 16, RPL 3
        wrmsr
        mov     ecx, MSR_LSTAR
        mov     eax, offset system_call
        xor     edx, edx
        wrmsr
        mov     ecx, MSR_SFMASK
        mov     eax, 1 << 9             // IF: no interrupt before the stack is ours
        wrmsr

        // Load the program, and let ring 3 touch its page and no other.
        mov     esi, offset program
        mov     edi, PROGRAM
        mov     ecx, program_end - program
        rep movsb
        or      dword ptr [rip + pd + (PROGRAM >> 21) * 8], PTE_USER
        mov     rax, cr3
        mov     cr3, rax                // forget old translations

        PRINT   "kernel: down to ring 3\n"
        push    USER_DATA               // as if an interrupt had come from there: SS, RSP, RFLAGS, CS, RIP
        push    USER_STACK
        push    2                       // bit 1 is always set; IF and IOPL are 0
        push    USER_CODE
        push    PROGRAM
        iretq

// RAX: number, RDI: argument; the processor has put the way back in RCX and R11, and left us on the user's stack.
system_call:
        mov     r8, rsp
        mov     esp, offset stack_top
        mov     r9, rcx                 // the printing routines use RCX
        mov     r10, rdi
        cmp     eax, SYS_WRITE
        je      write
        cmp     eax, SYS_EXIT
        je      exit
        PRINT   "FAIL: unknown system call\n"
        FAIL    1
write:  PRINT   "user: "
        mov     rsi, r10                // a real kernel would first check whose memory this is
        call    puts
        mov     rcx, r9
        mov     rsp, r8
        sysretq

exit:   PRINT   "FAIL: nobody stopped the program\n"
        FAIL    2

protection_fault:
        test    byte ptr [rsp + 16], 3  // the CS that was interrupted: above error code and RIP
        jz      ours
        PRINT   "kernel: the program tried a privileged instruction, general protection fault\nPASS\n"
        POWER_OFF_OR_RESET
ours:   PRINT   "FAIL: general protection fault in the kernel\n"
        FAIL    3

// The program. It runs where the kernel puts it, so it addresses its data relative to RIP.
program:
        mov     ax, cs                  // bits 1:0 are the current privilege level
        and     al, 3
        add     al, '0'
        mov     [rip + level], al
        mov     eax, SYS_WRITE
        lea     rdi, [rip + hello]
        syscall
        mov     eax, SYS_WRITE
        lea     rdi, [rip + again]
        syscall
        cli                             // not for us: IOPL is 0
        mov     eax, SYS_EXIT
        syscall
hello:  .ascii  "hello from ring "
level:  .asciz  "?\n"
again:  .asciz  "and back again\n"
program_end:

CONSOLE

        .data
        .balign 8
gdt:    KERNEL_SEGMENTS
        .quad   0x0000f20000000000      // 0x18: data, ring 3
        .quad   0x0020fa0000000000      // 0x20: code, ring 3, L
gdt_tss:
        .quad   0x0000890000000067, 0   // 0x28: available 64-bit TSS of 104 bytes, its address to be filled in
gdt_end:
        .balign 16
tss:    .fill   104
