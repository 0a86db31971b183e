// What a guest in C needs of the PC: ports, printing on COM1, the two ways to end, words from the command line.

#include <stdbool.h>
#include <stdint.h>

#include "pc.h"

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in %0, %1" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("in %0, %1" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static void put(char character)
{
    while (!(inb(COM1_LSR) & LSR_THR_EMPTY))
        ;
    outb(COM1, (uint8_t)character);
}

static void print(const char *text)
{
    while (*text)
        put(*text++);
}

static inline void print_decimal(uint64_t value)
{
    if (value >= 10)
        print_decimal(value / 10);
    put((char)('0' + value % 10));
}

static inline void print_hex(uint64_t value, int digits)
{
    while (digits--)
        put("0123456789abcdef"[value >> 4 * digits & 15]);
}

// Success, as hello-c ends: ACPI's power-off.
__attribute__((noreturn)) static inline void power_off(void)
{
    outw(PM1A_CONTROL, SLEEP_S5);
    for (;;)
        __asm__ volatile("cli; hlt");
}

// Failure: a line that says what, and exit status 3 = 1 << 1 | 1.
__attribute__((noreturn)) static void fail(const char *why)
{
    print("FAIL: ");
    print(why);
    print("\n");
    outb(DEBUG_EXIT, 1);
    for (;;)
        __asm__ volatile("cli; hlt");
}

// The text after `name` (with its '=' sign) on the command line, or 0.
static inline const char *option(const char *line, const char *name)
{
    for (; line && *line; line++) {
        const char *here = line, *want = name;
        while (*want && *here == *want)
            here++, want++;
        if (!*want)
            return here;
    }
    return 0;
}

static inline uint64_t number(const char *line, const char *name, uint64_t otherwise)
{
    const char *text = option(line, name);
    uint64_t value = 0;
    if (!text)
        return otherwise;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (uint64_t)(*text++ - '0');
    return value;
}
