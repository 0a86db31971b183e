// bench-in: how long does an IN take, from the guest to the VMM's device and back with an answer? 50000 single-byte
// reads of a port nobody claims, then power off. It runs wherever it is loaded, like bench-out.

        .intel_syntax noprefix
#include "exit.inc"
#define COUNT 50000
#define PORT  0x10

        .globl  start
start:
        mov     ecx, COUNT
again:  in      al, PORT
        dec     ecx
        jnz     again
        POWER_OFF
