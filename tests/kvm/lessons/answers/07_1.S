# Exercise 7.1: wake all other processors. Loaded at 0x100000 in 32-bit protected mode, segments are flat.
        .intel_syntax noprefix
        .set    LAPIC, 0xfee00000
        .code32
        .globl  start
start:
        mov     esi, offset trampoline  # SIPI begins at a page below 1 MiB: copy what they shall do to 0x8000
        mov     edi, 0x8000
        mov     ecx, trampoline_end - trampoline
        cld
        rep movsb
        mov     dword ptr [LAPIC + 0xf0], 0x1ff         # enable our local APIC


        mov     dword ptr [LAPIC + 0x300], 0xc4500      # INIT, to all excluding self
        mov     dword ptr [LAPIC + 0x300], 0xc4608      # SIPI

        rdtsc                           # give them 2^31 cycles, a second or so
        mov     ebx, eax
wait:   pause
        cmp     byte ptr [0x8000 + ready - trampoline], 3
        je      done
        rdtsc
        sub     eax, ebx
        jns     wait
done:   movzx   ecx, byte ptr [0x8000 + ready - trampoline]
        mov     dx, 0x3f8
        mov     al, '+'                 # a plus for each that came
next:   jecxz   off
        out     dx, al
        dec     ecx
        jmp     next
off:    mov     dx, 0x604
        mov     ax, 0x2000
        out     dx, ax
        hlt

        .code16
trampoline:
        lock inc byte ptr cs:[ready - trampoline]
sleep:  cli
        hlt
        jmp     sleep
ready:  .byte   0
trampoline_end:
