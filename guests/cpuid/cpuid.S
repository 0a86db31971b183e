// cpuid: which processor does this virtual machine show to its guest, and is there a hypervisor that says so?

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"

// Prints a label and EAX in hexadecimal.
.macro SHOW text, register
        mov     edi, \register
        PRINT   "\text"
        mov     eax, edi
        call    puthex
.endm

// Appends a register's four characters to the text at EDI.
.macro STORE register
        mov     [edi], \register
        add     edi, 4
.endm

MULTIBOOT_HEADER
        .globl  start
start:
        mov     esp, offset stack_top
        cld
        xor     eax, eax                // leaf 0: highest leaf, vendor in EBX, EDX, ECX
        cpuid
        mov     ebp, eax
        mov     edi, offset text
        STORE   ebx
        STORE   edx
        STORE   ecx
        PRINT   "vendor: "
        call    show_text
        SHOW    ", highest leaf ", ebp
        PRINT   "\n"

        mov     eax, 0x80000000         // extended leaves 2..4: the brand string
        cpuid
        cmp     eax, 0x80000004
        jb      model
        mov     edi, offset text
        mov     ebp, 0x80000002
brand:  mov     eax, ebp
        cpuid
        STORE   eax
        STORE   ebx
        STORE   ecx
        STORE   edx
        inc     ebp
        cmp     ebp, 0x80000004
        jbe     brand
        PRINT   "brand: "
        call    show_text
        PRINT   "\n"

model:  mov     eax, 1                  // leaf 1: family, model, stepping; APIC id and more; features
        cpuid
        mov     [leaf1_ebx], ebx
        mov     [leaf1_ecx], ecx
        mov     [leaf1_edx], edx
        SHOW    "signature: ", eax
        SHOW    "\nfeatures: edx ", [leaf1_edx]
        SHOW    " ecx ", [leaf1_ecx]
        PRINT   "\nAPIC id: "
        movzx   eax, byte ptr [leaf1_ebx + 3]
        call    putdec
        PRINT   ", logical processors in this package: "
        movzx   eax, byte ptr [leaf1_ebx + 2]
        test    dword ptr [leaf1_edx], 1 << 28  // HTT: only then is this number valid
        jnz     several
        mov     eax, 1
several:
        call    putdec
        PRINT   "\n"

        test    dword ptr [leaf1_ecx], 1 << 31  // the bit that real processors leave 0
        jz      bare
        mov     eax, 0x40000000
        cpuid
        mov     ebp, eax
        mov     edi, offset text
        STORE   ebx
        STORE   ecx
        STORE   edx
        mov     dword ptr [edi], 0
        PRINT   "hypervisor: "
        call    show_text
        SHOW    ", highest leaf ", ebp
        PRINT   "\n"
        jmp     topology
bare:   PRINT   "hypervisor: none\n"

topology:
        xor     eax, eax
        cpuid
        cmp     eax, 11                 // leaf 11: one subleaf per level of the topology
        jb      end
        xor     ebp, ebp
level:  mov     eax, 11
        mov     ecx, ebp
        cpuid
        test    ch, ch                  // the level's type: 1 thread, 2 core, 0 no more
        jz      end
        mov     [text], ebx
        mov     [text + 4], edx
        movzx   ebx, ch
        mov     [text + 8], ebx
        PRINT   "topology: level type "
        mov     eax, [text + 8]
        call    putdec
        PRINT   ", processors "
        movzx   eax, word ptr [text]
        call    putdec
        PRINT   ", x2APIC id "
        mov     eax, [text + 4]
        call    putdec
        PRINT   "\n"
        inc     ebp
        cmp     ebp, 8                  // nobody has more
        jb      level

end:    POWER_OFF_OR_RESET

show_text:                              // what STORE put together, up to EDI
        mov     byte ptr [edi], 0
        mov     esi, offset text
        jmp     puts

CONSOLE
NUMBERS

        .bss
        .balign 4
leaf1_ebx:
        .skip   4
leaf1_ecx:
        .skip   4
leaf1_edx:
        .skip   4
text:   .skip   52
