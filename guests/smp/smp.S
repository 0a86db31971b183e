// smp: the boot processor (BSP) looks up who else is there, wakes each application processor (AP) by INIT and SIPI
// through its local APIC, and counts who reports back.

        .intel_syntax noprefix
#include "multiboot.inc"
#include "console.inc"
#include "exit.inc"
#define TRAMPOLINE 0x8000               // an AP starts in real mode at a page below 1 MiB
#define ICR_INIT   0x4500               // delivery mode INIT, level assert
#define ICR_SIPI   (0x4600 + (TRAMPOLINE >> 12))        // start-up: the vector is the page number
#define BUSY       (1 << 12)            // delivery status

MULTIBOOT_HEADER
        .globl  start
start:
        mov     esp, offset stack_top
        cld
        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, trampoline_end - trampoline
        rep movsb
        mov     ebp, LAPIC
        mov     dword ptr [ebp + LAPIC_SVR], 0x1ff      // enable it: bit 8, and vector 255 for spurious interrupts

        // The MP floating pointer: in the last KiB below 640 KiB, or in the BIOS area, on a 16-byte boundary.
        mov     esi, 0x9fc00
        mov     ecx, 0x400 / 16
        call    find
        je      found
        mov     esi, 0xe0000
        mov     ecx, 0x20000 / 16
        call    find
        je      found
        PRINT   "no MP table: one processor, then\n"
        mov     dword ptr [expected], 1
        jmp     report
find:   cmp     dword ptr [esi], 0x5f504d5f     // "_MP_"
        je      found_it
        add     esi, 16
        dec     ecx
        jnz     find
        dec     ecx                     // clears ZF: not found
found_it:
        ret

        // Its table starts with the processors: 20 bytes each, type 0. Everything else has another type.
found:  mov     esi, [esi + 4]
        add     esi, 0x2c               // behind the header
entry:  cmp     byte ptr [esi], 0
        jne     wait
        test    byte ptr [esi + 3], 1   // enabled?
        jz      skip
        inc     dword ptr [expected]
        test    byte ptr [esi + 3], 2   // the BSP: that is us
        jnz     skip
        movzx   eax, byte ptr [esi + 1] // local APIC id
        shl     eax, 24
        mov     ebx, ICR_INIT           // real hardware wants 10 ms after this; a virtual APIC is ready at once
        call    send
        mov     ebx, ICR_SIPI           // and a second SIPI in case the first got lost; ours does not
        call    send
skip:   add     esi, 20
        jmp     entry

send:   mov     [ebp + LAPIC_ICR_HIGH], eax     // to whom
        mov     [ebp + LAPIC_ICR_LOW], ebx      // what: this sends it
sent:   pause
        test    dword ptr [ebp + LAPIC_ICR_LOW], BUSY
        jnz     sent
        ret

        // Wait for all of them, but not for ever: 2^35 cycles are ten seconds or so.
wait:   rdtsc
        mov     edi, edx
        add     edi, 8
again:  mov     ax, [TRAMPOLINE + ready - trampoline]
        inc     ax                      // and the BSP
        cmp     ax, [expected]
        je      report
        pause
        rdtsc
        cmp     edx, edi
        jb      again

report: movzx   eax, word ptr [TRAMPOLINE + ready - trampoline]
        inc     eax
        mov     edi, eax                // how many there are
        call    putdec
        PRINT   " of "
        mov     eax, [expected]
        call    putdec
        PRINT   " processors, APIC ids: "
        mov     eax, [ebp + LAPIC_ID]
        shr     eax, 24
        call    putdec
        mov     ebp, TRAMPOLINE + ids - trampoline
next:   dec     edi
        jz      verdict
        PRINT   " "
        movzx   eax, byte ptr [ebp]     // in the order in which they came up
        call    putdec
        inc     ebp
        jmp     next
verdict:
        PRINT   "\n"
        movzx   eax, word ptr [TRAMPOLINE + ready - trampoline]
        inc     eax
        cmp     eax, [expected]
        jne     missing
        POWER_OFF_OR_RESET
missing:
        PRINT   "FAIL: a processor is missing\n"
        FAIL    1

CONSOLE
NUMBERS

// What the APs do, in a copy at TRAMPOLINE. CS = TRAMPOLINE >> 4, IP = 0; DS is 0. All of them run this at once:
// LOCK XADD hands out the places in the list, no two get the same.
        .code16
trampoline:
        mov     si, 1
        lock xadd cs:[arrived - trampoline], si
        mov     eax, 1
        cpuid                           // EBX 31:24: the local APIC's id
        shr     ebx, 24
        mov     cs:[si + ids - trampoline], bl
        lock inc word ptr cs:[ready - trampoline]
sleep:  cli
        hlt
        jmp     sleep
arrived:
        .word   0
ready:  .word   0
ids:    .fill   255
trampoline_end:

        .data
expected:
        .long   0
