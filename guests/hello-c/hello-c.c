// hello-c: a guest in C, as a plain 64-bit ELF file. The compiler must be told what is not there: no C library, no
// operating system, no red zone below the stack (an interrupt would write there), no SSE (nobody enabled it).

#include <stdint.h>

#include "pc.h"

static uint8_t stack[4096] __attribute__((aligned(16), used));

// The processor arrives here with no stack that we could rely on. C needs one before its first instruction.
__asm__(".globl start\n"
        "start:\n"
        "        lea     rsp, [rip + stack + 4096]\n"
        "        call    run\n");

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in %0, %1" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(COM1_LSR) & LSR_THR_EMPTY))
            ;
        outb(COM1, (uint8_t)*text);
    }
}

__attribute__((noreturn, used)) static void run(void)
{
    print("Hello from C, in 64-bit long mode!\n");
    outw(PM1A_CONTROL, SLEEP_S5);
    for (;;)
        __asm__ volatile("cli; hlt");
}
