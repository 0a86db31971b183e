// PCI: configuration space through ports 0xCF8 (which register) and 0xCFC (its value); and what the base address registers hold.

#include "c.h"

#define PCI_COMMAND_IO     1 // the function answers at its ports,
#define PCI_COMMAND_MEMORY 2 // in its memory,
#define PCI_COMMAND_MASTER 4 // and may reach ours

static uint8_t slot; // of the function in use: bus 0, this device, function 0

static inline uint32_t pci_read(uint8_t at)
{
    outl(0xcf8, 0x80000000u | (uint32_t)slot << 11 | (at & 0xfcu));
    return inl(0xcfc) >> 8 * (at & 3); // the byte asked for is the lowest one
}

static inline void pci_write(uint8_t at, uint32_t value) // `at` is a multiple of 4
{
    outl(0xcf8, 0x80000000u | (uint32_t)slot << 11 | at);
    outl(0xcfc, value);
}

// Finds a function by device and vendor (one word, as register 0 has them), and switches it on.
static inline bool pci_find(uint32_t id)
{
    for (slot = 0; slot < 32; slot++)
        if (pci_read(0) == id) {
            pci_write(4, (pci_read(4) & 0xffff) | PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
            return true;
        }
    return false;
}

// The memory behind a base address register. start.S has mapped the first 4 GiB; a region above gets a page table of its own.
static inline volatile uint8_t *pci_memory(int index)
{
    static uint64_t table[512] __attribute__((aligned(4096)));
    uint64_t pml4, base = pci_read((uint8_t)(0x10 + 4 * index)) & ~15u;
    if ((pci_read((uint8_t)(0x10 + 4 * index)) & 7) == 4)
        base |= (uint64_t)pci_read((uint8_t)(0x14 + 4 * index)) << 32; // 64 bits wide: the next register has the rest
    if (base >> 39)
        fail("a base address register beyond 512 GiB");
    if (base >> 32) {
        __asm__("mov %0, cr3" : "=r"(pml4));
        uint64_t *pdpt = (uint64_t *)(*(uint64_t *)pml4 & ~0xfffull);
        for (uint64_t i = 0; i < 512; i++)
            table[i] = (base >> 30 << 30) + (i << 21) + (PTE_PRESENT | PTE_WRITE | PTE_LARGE);
        pdpt[base >> 30] = (uint64_t)table | PTE_PRESENT | PTE_WRITE;
    }
    return (volatile uint8_t *)base;
}
