// A driver for a virtio network card: one ring to receive, one to send, of include/virtio.h (read that first).
// Chapters are those of the Virtual I/O Device specification, version 1.2.

#include "virtio.h"

#define F_MAC    (1u << 5) // 5.1.3: it has an address
#define F_STATUS (1u << 16) // it says whether there is a link
#define HEADER   12 // bytes before each frame, 5.1.6: for offloads, all zero without them
#define BUFFER   2048

static struct ring rx, tx; // queues 0 and 1, 5.1.2
static uint8_t rx_memory[RING][BUFFER], tx_memory[RING][BUFFER];
static uint16_t tx_next, rx_head; // tx: filled, counted for ever; rx: the descriptor of the frame at hand
static uint32_t features;
static uint8_t mac[6];

static const char *const card_name = "virtio";

// --- sending: descriptor n has buffer n; header and frame side by side, one descriptor for both ---

// A buffer for a frame of at most BUFFER - HEADER bytes; 0 while all are on their way. As descriptors are used in turn and the
// device may finish them in any order, a few may have to wait for a slow one: simple, and good enough here.
static inline uint8_t *transmit_buffer(void)
{
    while (ring_done(&tx))
        ring_take(&tx, 0);
    return (uint16_t)(tx_next - tx.seen) == tx.size ? 0 : tx_memory[tx_next & (tx.size - 1)] + HEADER;
}

static inline uint32_t on_their_way(void)
{
    transmit_buffer();
    return (uint16_t)(tx_next - tx.seen);
}

// Fills a descriptor; the device need not look before doorbell().
static inline void transmit(uint16_t length)
{
    uint16_t at = tx_next++ & (tx.size - 1);
    tx.desc[at] = (struct desc){(uint64_t)tx_memory[at], HEADER + length, 0, 0};
    ring_add(&tx, at);
}

static inline void doorbell(void)
{
    ring_kick(&tx);
}

// --- receiving ---

// The length of the next frame, and where it is; 0: none is there. Good until received().
static inline uint32_t receive(uint8_t **frame)
{
    uint32_t length;
    if (!ring_done(&rx))
        return 0;
    rx_head = ring_take(&rx, &length);
    *frame = rx_memory[rx_head] + HEADER;
    return length - HEADER;
}

static inline void received(void) // the buffer is the device's again
{
    ring_add(&rx, rx_head);
    ring_kick(&rx);
}

// --- getting there ---

static void start_device(bool with_interrupts)
{
    features = virtio_begin(1, F_MAC | F_STATUS);
    if (!(features & F_MAC))
        fail("the device has no address");
    for (int i = 0; i < 6; i++)
        mac[i] = device_config[i]; // 5.1.4
    if (with_interrupts)
        use_msix();
    virtio_queue(&rx, 0, with_interrupts);
    virtio_queue(&tx, 1, with_interrupts);
    for (uint16_t i = 0; i < rx.size; i++) {
        rx.desc[i] = (struct desc){(uint64_t)rx_memory[i], BUFFER, DESC_WRITE, 0};
        ring_add(&rx, i);
    }
    virtio_live();
    ring_kick(&rx);
}

static inline bool link_up(void)
{
    return !(features & F_STATUS) || *(volatile uint16_t *)(device_config + 6) & 1;
}

// For the curious: where both sides are.
static inline void print_rings(void)
{
    print("  tx avail ");
    print_decimal(tx.avail.idx);
    print(" used ");
    print_decimal(((volatile struct ring *)&tx)->used.idx);
    print(", rx avail ");
    print_decimal(rx.avail.idx);
    print(" used ");
    print_decimal(((volatile struct ring *)&rx)->used.idx);
    print("\n");
}

static void stop_device(void)
{
    virtio_reset();
}
