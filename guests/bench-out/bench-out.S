// bench-out: how long does an OUT take, from the guest to the VMM's device and back? 50000 single-byte writes to a
// port nobody claims, then power off. No stack, no memory operand, no address: it runs wherever it is loaded, under
// pyvmm as under a KVM_RUN loop of twenty lines of C.

        .intel_syntax noprefix
#include "exit.inc"
#define COUNT 50000
#define PORT  0x10

        .globl  start
start:
        mov     ecx, COUNT
again:  out     PORT, al
        dec     ecx
        jnz     again
        POWER_OFF
