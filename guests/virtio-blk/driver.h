// A driver for a virtio block device: find it on the PCI bus, agree with it, talk to it through one split ring.
// Chapters are those of the Virtual I/O Device specification, version 1.2. One processor, memory mapped to itself.

#include "c.h"

#define VECTOR 0x40 // interrupt vector of the queue, as in start.S

// --- PCI: configuration space through ports 0xCF8 (which register) and 0xCFC (its value) ---

static uint8_t slot; // bus 0, this device, function 0

static uint32_t pci_read(uint8_t at)
{
    outl(0xcf8, 0x80000000u | (uint32_t)slot << 11 | (at & 0xfcu));
    return inl(0xcfc) >> 8 * (at & 3); // the byte asked for is the lowest one
}

static void pci_write(uint8_t at, uint32_t value) // `at` is a multiple of 4
{
    outl(0xcf8, 0x80000000u | (uint32_t)slot << 11 | at);
    outl(0xcfc, value);
}

// The memory behind a base address register. start.S has mapped the first 4 GiB; a region above gets a page table of its own.
static volatile uint8_t *pci_memory(int index)
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

// --- where the device keeps its registers: 4.1.4, capabilities of type 9 that point into its memory ---

struct common { // 4.1.4.3
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t queue_desc[2], queue_driver[2], queue_device[2]; // low half, high half
};

static volatile struct common *common;
static volatile uint16_t *doorbell; // of queue 0
static volatile uint8_t *blk_config; // 5.2.4
static uint8_t msix; // the MSI-X capability, 0 without

static void find_registers(void)
{
    volatile uint8_t *notify = 0;
    uint32_t multiplier = 0;
    for (uint8_t at = (uint8_t)pci_read(0x34); at; at = (uint8_t)pci_read(at + 1)) {
        if ((pci_read(at) & 0xff) == 0x11)
            msix = at;
        if ((pci_read(at) & 0xff) != 9)
            continue;
        uint8_t type = pci_read(at + 3) & 0xff;
        if (type != 1 && type != 2 && type != 4)
            continue;
        volatile uint8_t *where = pci_memory(pci_read(at + 4) & 0xff) + pci_read(at + 8);
        if (type == 1 && !common)
            common = (volatile struct common *)where;
        if (type == 2 && !notify)
            notify = where, multiplier = pci_read(at + 16);
        if (type == 4 && !blk_config)
            blk_config = where;
    }
    if (!common || !notify || !blk_config)
        fail("the device does not say where its registers are");
    common->queue_select = 0;
    doorbell = (volatile uint16_t *)(notify + common->queue_notify_off * multiplier); // 4.1.4.4
}

// --- the split ring, 2.7: three arrays in our memory that both sides look at ---

#define RING 128 // at most; a power of two

#define DESC_NEXT  1 // the chain goes on at `next`
#define DESC_WRITE 2 // the device writes here; else it reads

static struct desc { // 2.7.5: where a buffer is
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
} desc[RING] __attribute__((aligned(16)));

static volatile struct { // 2.7.6: driver to device, "start with this descriptor"; idx counts up for ever and wraps at 65536
    uint16_t flags, idx, ring[RING];
} avail __attribute__((aligned(2)));

static volatile struct { // 2.7.8: device to driver, "the chain that began there is done"
    uint16_t flags, idx;
    struct {
        uint32_t id, length; // length: bytes the device wrote
    } ring[RING];
} used __attribute__((aligned(4)));

static uint16_t ring_size, seen; // seen: how far we have read `used`
static bool interrupts;

// --- requests of a block device, 5.2.6: header, data, one byte of status ---

enum { READ = 0, WRITE = 1, FLUSH = 4, GET_ID = 8 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };
#define REQUESTS (RING / 3) // each has three descriptors of its own: 3n, 3n + 1, 3n + 2

static struct {
    uint32_t type, reserved;
    uint64_t sector; // of 512 bytes, whatever the block size
} header[REQUESTS];
static volatile uint8_t status[REQUESTS];

// Makes request `n` known to the device; it need not look before kick().
static inline void submit(int n, uint32_t type, uint64_t sector, void *data, uint32_t length)
{
    struct desc *d = &desc[3 * n];
    header[n].type = type;
    header[n].sector = sector;
    status[n] = 0xff;
    d[0] = (struct desc){(uint64_t)&header[n], sizeof header[n], DESC_NEXT, (uint16_t)(3 * n + (length ? 1 : 2))};
    d[1] = (struct desc){(uint64_t)data, length, DESC_NEXT | (type == WRITE ? 0 : DESC_WRITE), (uint16_t)(3 * n + 2)};
    d[2] = (struct desc){(uint64_t)&status[n], 1, DESC_WRITE, 0};
    avail.ring[avail.idx & (ring_size - 1)] = (uint16_t)(3 * n);
    // The device must not see the new index before what it stands for (2.7.13.3). x86 keeps stores in order; the compiler is told.
    __asm__ volatile("" : : : "memory");
    avail.idx++;
}

// Rings the doorbell, unless the device has said that it looks by itself (2.7.10).
static inline void kick(void)
{
    __asm__ volatile("mfence" : : : "memory"); // our store of idx first, then the load of flags: x86 may swap those two
    if (!(used.flags & 1))
        *doorbell = 0; // the queue's number; this store is what leaves the guest, all else was memory
}

// Waits until a request is done; which one.
static inline int finished(void)
{
    while (used.idx == seen) // the device may be quicker than its interrupt: look before sleeping, with interrupts off
        if (interrupts)
            __asm__ volatile("sti; hlt; cli" : : : "memory"); // STI works after HLT has begun: no wake-up is lost
        else
            __asm__ volatile("pause" : : : "memory");
    int first = (int)used.ring[seen & (ring_size - 1)].id;
    seen++;
    return first / 3;
}

// One request from beginning to end; its status.
static inline uint8_t request(uint32_t type, uint64_t sector, void *data, uint32_t length)
{
    submit(0, type, sector, data, length);
    kick();
    return status[finished()];
}

// --- getting there, 3.1.1: the order of the steps is the specification's ---

#define ACKNOWLEDGE 1
#define DRIVER      2
#define DRIVER_OK   4
#define FEATURES_OK 8
#define F_BLK_FLUSH (1u << 9) // 5.2.3
#define F_VERSION_1 (1u << 0) // bit 32: the first of the second word

static bool has_flush;

static void use_msix(void) // 4.1.5.1.2: the queue's interrupt becomes a store to the local APIC's address, which is a message
{
    if (!msix)
        fail("no MSI-X");
    uint32_t place = pci_read(msix + 4); // which base address register, and where the table is in it
    volatile uint32_t *entry = (volatile uint32_t *)(pci_memory(place & 7) + (place & ~7u));
    entry[0] = LAPIC & 0xfff00000;
    entry[1] = 0;
    entry[2] = VECTOR;
    entry[3] = 0; // not masked
    pci_write(msix, pci_read(msix) | 1u << 31);
    common->queue_msix_vector = 0; // the table's first entry
    if (common->queue_msix_vector != 0)
        fail("the device has no vector for its queue");
    interrupts = true;
}

static void start_device(bool with_interrupts)
{
    for (slot = 0; pci_read(0) != 0x10421af4; slot++) // vendor 0x1af4, device 0x1040 + 2, a block device
        if (slot == 31)
            fail("no virtio block device on bus 0");
    pci_write(4, (pci_read(4) & 0xffff) | 6); // it may answer in memory, and reach ours
    find_registers();

    common->status = 0; // 1: reset, which takes as long as it takes
    while (common->status)
        ;
    common->status = ACKNOWLEDGE; // 2
    common->status = ACKNOWLEDGE | DRIVER; // 3
    common->device_feature_select = 0; // 4: of what it offers we take what we know
    has_flush = common->device_feature & F_BLK_FLUSH;
    common->device_feature_select = 1;
    if (!(common->device_feature & F_VERSION_1))
        fail("the device knows no virtio 1");
    common->driver_feature_select = 0;
    common->driver_feature = has_flush ? F_BLK_FLUSH : 0;
    common->driver_feature_select = 1;
    common->driver_feature = F_VERSION_1;
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK; // 5
    if (!(common->status & FEATURES_OK)) // 6
        fail("the device does not agree");
    common->queue_select = 0; // 7
    ring_size = common->queue_size < RING ? common->queue_size : RING;
    common->queue_size = ring_size;
    if (with_interrupts)
        use_msix();
    else
        avail.flags = 1; // 2.7.7: no interrupts please, we look
    common->queue_desc[0] = (uint32_t)(uint64_t)desc;
    common->queue_driver[0] = (uint32_t)(uint64_t)&avail;
    common->queue_device[0] = (uint32_t)(uint64_t)&used;
    common->queue_enable = 1;
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK; // 8: live
}

static uint64_t capacity(void) // in sectors
{
    volatile uint32_t *words = (volatile uint32_t *)blk_config;
    return words[0] | (uint64_t)words[1] << 32;
}
