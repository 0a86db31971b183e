// A driver for a virtio block device: its requests, on the ring of include/virtio.h (read that first).
// Chapters are those of the Virtual I/O Device specification, version 1.2.

#include "virtio.h"

// --- requests of a block device, 5.2.6: header, data, one byte of status ---

enum { READ = 0, WRITE = 1, FLUSH = 4, GET_ID = 8 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };
#define REQUESTS (RING / 3) // each has three descriptors of its own: 3n, 3n + 1, 3n + 2

static struct ring ring;
static struct {
    uint32_t type, reserved;
    uint64_t sector; // of 512 bytes, whatever the block size
} header[REQUESTS];
static volatile uint8_t status[REQUESTS];

// Makes request `n` known to the device; it need not look before kick().
static inline void submit(int n, uint32_t type, uint64_t sector, void *data, uint32_t length)
{
    struct desc *d = &ring.desc[3 * n];
    header[n].type = type;
    header[n].sector = sector;
    status[n] = 0xff;
    d[0] = (struct desc){(uint64_t)&header[n], sizeof header[n], DESC_NEXT, (uint16_t)(3 * n + (length ? 1 : 2))};
    d[1] = (struct desc){(uint64_t)data, length, DESC_NEXT | (type == WRITE ? 0 : DESC_WRITE), (uint16_t)(3 * n + 2)};
    d[2] = (struct desc){(uint64_t)&status[n], 1, DESC_WRITE, 0};
    ring_add(&ring, (uint16_t)(3 * n));
}

static inline void kick(void)
{
    ring_kick(&ring);
}

static inline bool more(void) // is another request done already?
{
    return ring_done(&ring);
}

// Waits until a request is done; which one.
static inline int finished(void)
{
    while (!ring_done(&ring))
        rest();
    return ring_take(&ring, 0) / 3;
}

// One request from beginning to end; its status.
static inline uint8_t request(uint32_t type, uint64_t sector, void *data, uint32_t length)
{
    submit(0, type, sector, data, length);
    kick();
    return status[finished()];
}

#define F_BLK_FLUSH (1u << 9) // 5.2.3

static bool has_flush;

static void start_device(bool with_interrupts)
{
    has_flush = virtio_begin(2, F_BLK_FLUSH);
    if (with_interrupts)
        use_msix();
    virtio_queue(&ring, 0, with_interrupts);
    virtio_live();
}

static uint64_t capacity(void) // in sectors, 5.2.4
{
    volatile uint32_t *words = (volatile uint32_t *)device_config;
    return words[0] | (uint64_t)words[1] << 32;
}
