// hello-pvh: the boot protocol of Xen's PVH guests, which Linux and QEMU speak too. The entry point stands in an ELF
// note; the CPU arrives as for Multiboot, in 32-bit protected mode with paging off, and EBX -> struct hvm_start_info.

        .intel_syntax noprefix
#include "console.inc"
#include "exit.inc"
#define START_MAGIC      0x336ec578     // "xEn3" with bit 7 of the E set
#define START_CMDLINE    24             // these are 64 bits wide; ours are below 4 GiB
#define START_MEMMAP     40
#define START_ENTRIES    48

        .section .note.Xen, "a"
        .long   4, 4, 18                // length of the name, of the value; type XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   start

        .bss
        .balign 16
        .skip   4096
stack_top:
        .text
        .globl  start
start:
        mov     esp, offset stack_top
        cld
        mov     ebp, ebx                // the printing routines use EBX
        cmp     dword ptr [ebp], START_MAGIC
        je      welcome
        PRINT   "FAIL: no start information\n"
        FAIL    1
welcome:
        PRINT   "Hello from PVH!\n"
        cmp     dword ptr [ebp + START_CMDLINE], 0
        je      memory
        PRINT   "command line: "
        mov     esi, [ebp + START_CMDLINE]
        call    puts
        PRINT   "\n"
memory: mov     edi, [ebp + START_ENTRIES]
        mov     ebp, [ebp + START_MEMMAP]
entry:  test    edi, edi
        jz      off
        PRINT   "memory: "
        mov     eax, [ebp + 4]          // an entry: address, length (8 bytes each), type, reserved (4 bytes each)
        call    puthex
        mov     eax, [ebp]
        call    puthex
        PRINT   " length "
        mov     eax, [ebp + 12]
        call    puthex
        mov     eax, [ebp + 8]
        call    puthex
        PRINT   " type "
        mov     eax, [ebp + 16]         // 1: RAM, 2: reserved
        call    putdec
        PRINT   "\n"
        add     ebp, 24
        dec     edi
        jmp     entry
off:    POWER_OFF_OR_RESET

CONSOLE
NUMBERS
