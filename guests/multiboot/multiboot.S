// multiboot: a guest for any Multiboot loader (pyvmm, QEMU -kernel, GRUB). Shows what the loader told it.

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"

MULTIBOOT_HEADER

        .globl  start
start:
        mov     esp, offset stack_top
        mov     ebp, ebx                // the printing routines use EBX
        cld
        cmp     eax, MULTIBOOT_MAGIC
        je      welcome
        PRINT   "FAIL: not started by a Multiboot loader\n"
        FAIL    1

welcome:
        PRINT   "Hello from Multiboot!\n"

        test    dword ptr [ebp + MBI_FLAGS], MBI_HAS_CMDLINE
        jz      memory
        PRINT   "command line: "
        mov     esi, [ebp + MBI_CMDLINE]
        call    puts
        PRINT   "\n"

memory: test    dword ptr [ebp + MBI_FLAGS], MBI_HAS_MEMORY
        jz      modules
        PRINT   "memory: "
        mov     eax, [ebp + MBI_MEM_LOWER]
        call    putdec
        PRINT   " KiB low, "
        mov     eax, [ebp + MBI_MEM_UPPER]
        call    putdec
        PRINT   " KiB high\n"

modules:
        xor     edi, edi                // how many modules are left
        test    dword ptr [ebp + MBI_FLAGS], MBI_HAS_MODULES
        jz      count
        mov     edi, [ebp + MBI_MODS_COUNT]
        mov     ebp, [ebp + MBI_MODS_ADDR]
count:  PRINT   "modules: "
        mov     eax, edi
        call    putdec
        PRINT   "\n"
module: test    edi, edi
        jz      off
        PRINT   "  "
        mov     eax, [ebp + 4]          // end - start
        sub     eax, [ebp]
        call    putdec
        PRINT   " bytes: "
        mov     esi, [ebp + 8]          // the module's own command line
        call    puts
        PRINT   "\n"
        add     ebp, 16
        dec     edi
        jmp     module

off:    POWER_OFF_OR_RESET

CONSOLE
NUMBERS
