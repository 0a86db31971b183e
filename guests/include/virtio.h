// What all drivers of virtio devices on PCI share: where the registers are, how to agree on features, the split ring.
// Chapters are those of the Virtual I/O Device specification, version 1.2. One processor, memory mapped to itself.

#include "pci.h"

#define VECTOR 0x40 // interrupt vector of the queues, as in start.S

// --- where the device keeps its registers: 4.1.4, capabilities of type 9 that point into its memory ---

struct common { // 4.1.4.3
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t queue_desc[2], queue_driver[2], queue_device[2]; // low half, high half
};

static volatile struct common *common;
static volatile uint8_t *device_config; // what is special to this kind of device
static volatile uint8_t *notify; // the doorbells, 4.1.4.4,
static uint32_t notify_multiplier; // so many bytes from one to the next
static uint8_t msix; // the MSI-X capability, 0 without
static bool interrupts; // sleep until there is one, instead of looking all the time

static void find_registers(void)
{
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
            notify = where, notify_multiplier = pci_read(at + 16);
        if (type == 4 && !device_config)
            device_config = where;
    }
    if (!common || !notify || !device_config)
        fail("the device does not say where its registers are");
}

// --- the split ring, 2.7: three arrays in our memory that both sides look at ---

#define RING 128 // at most; a power of two

#define DESC_NEXT  1 // the chain goes on at `next`
#define DESC_WRITE 2 // the device writes here; else it reads

struct desc { // 2.7.5: where a buffer is
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct ring {
    struct desc desc[RING] __attribute__((aligned(16)));
    struct { // 2.7.6: driver to device, "start with this descriptor"; idx counts up for ever and wraps at 65536
        uint16_t flags, idx, ring[RING];
    } avail __attribute__((aligned(2)));
    struct { // 2.7.8: device to driver, "the chain that began there is done"
        uint16_t flags, idx;
        struct {
            uint32_t id, length; // length: bytes the device wrote
        } ring[RING];
    } used __attribute__((aligned(4)));
    // From here on our own notes, which the device does not know.
    uint16_t index, size, seen; // number of the queue; descriptors in use; how far we have read `used`
    volatile uint16_t *doorbell;
};

// Makes the chain that begins at descriptor `head` known to the device; it need not look before ring_kick().
static inline void ring_add(volatile struct ring *ring, uint16_t head)
{
    ring->avail.ring[ring->avail.idx & (ring->size - 1)] = head;
    // The device must not see the new index before what it stands for (2.7.13.3). x86 keeps stores in order; the compiler is told.
    __asm__ volatile("" : : : "memory");
    ring->avail.idx++;
}

// Rings the doorbell, unless the device has said that it looks by itself (2.7.10).
static inline void ring_kick(volatile struct ring *ring)
{
    __asm__ volatile("mfence" : : : "memory"); // our store of idx first, then the load of flags: x86 may swap those two
    if (!(ring->used.flags & 1))
        *ring->doorbell = ring->index; // this store is what leaves the guest, all else was memory
}

static inline bool ring_done(volatile struct ring *ring) // is there a chain for ring_take()?
{
    return ring->used.idx != ring->seen;
}

// The first descriptor of the next chain that is done; `length` gets what the device has written.
static inline uint16_t ring_take(volatile struct ring *ring, uint32_t *length)
{
    __asm__ volatile("" : : : "memory"); // used.idx was read first, the element now
    uint16_t at = ring->seen++ & (ring->size - 1);
    if (length)
        *length = ring->used.ring[at].length;
    return (uint16_t)ring->used.ring[at].id;
}

// Call it between two looks at rings. The device may be quicker than its interrupt, so look before sleeping, with interrupts off.
static inline void rest(void)
{
    if (interrupts)
        __asm__ volatile("sti; hlt; cli" : : : "memory"); // STI works after HLT has begun: no wake-up is lost
    else
        __asm__ volatile("pause" : : : "memory");
}

// --- getting there, 3.1.1: the order of the steps is the specification's ---

#define ACKNOWLEDGE 1
#define DRIVER      2
#define DRIVER_OK   4
#define FEATURES_OK 8
#define F_VERSION_1 (1u << 0) // bit 32: the first of the second word

static void virtio_reset(void)
{
    common->status = 0; // takes as long as it takes
    while (common->status)
        ;
}

// Steps 1 to 6. Of the features the device offers (bits 31:0) we take those in `known`; which ones, is the result.
static uint32_t virtio_begin(uint16_t type, uint32_t known)
{
    if (!pci_find((uint32_t)(0x1040 + type) << 16 | 0x1af4))
        fail("no such virtio device on bus 0");
    find_registers();
    virtio_reset(); // 1
    common->status = ACKNOWLEDGE; // 2
    common->status = ACKNOWLEDGE | DRIVER; // 3
    common->device_feature_select = 0; // 4
    known &= common->device_feature;
    common->device_feature_select = 1;
    if (!(common->device_feature & F_VERSION_1))
        fail("the device knows no virtio 1");
    common->driver_feature_select = 0;
    common->driver_feature = known;
    common->driver_feature_select = 1;
    common->driver_feature = F_VERSION_1;
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK; // 5
    if (!(common->status & FEATURES_OK)) // 6
        fail("the device does not agree");
    return known;
}

// 4.1.5.1.2: an interrupt of the queues becomes a store to the local APIC's address, which is a message. They share the table's
// first entry.
static void use_msix(void)
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
    interrupts = true;
}

// Step 7, once for each queue.
static void virtio_queue(volatile struct ring *ring, uint16_t index, bool with_interrupts)
{
    common->queue_select = index;
    ring->index = index;
    ring->size = common->queue_size < RING ? common->queue_size : RING;
    common->queue_size = ring->size;
    ring->doorbell = (volatile uint16_t *)(notify + common->queue_notify_off * notify_multiplier);
    ring->avail.flags = !with_interrupts; // 2.7.7: 1 says, no interrupts please, we look
    if (with_interrupts) {
        common->queue_msix_vector = 0;
        if (common->queue_msix_vector != 0)
            fail("the device has no vector for its queue");
    }
    common->queue_desc[0] = (uint32_t)(uint64_t)ring->desc;
    common->queue_driver[0] = (uint32_t)(uint64_t)&ring->avail;
    common->queue_device[0] = (uint32_t)(uint64_t)&ring->used;
    common->queue_enable = 1;
}

static void virtio_live(void) // step 8
{
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}
