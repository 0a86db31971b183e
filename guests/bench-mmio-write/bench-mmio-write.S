// bench-mmio-write: how long does a write of a device's memory take? 50000 times four bytes at an address nobody claims,
// then power off. To find out what was accessed, KVM must decode the instruction, which an IN or OUT tells by itself.

        .intel_syntax noprefix
#include "exit.inc"
#define COUNT   50000
#define ADDRESS 0xf8000000

        .globl  start
start:
        mov     ecx, COUNT
        mov     ebx, ADDRESS
again:  mov     [ebx], eax
        dec     ecx
        jnz     again
        POWER_OFF
