// A driver for Intel's 82540EM: find it on the PCI bus, reset it, read its address, give it two rings of descriptors.
// Sections are those of Intel's manual, "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual".

#include "pci.h"

// --- registers in the card's memory, 13.4 ---

enum {
    CTRL = 0x0000, STATUS = 0x0008, EERD = 0x0014, ICR = 0x00c0, IMS = 0x00d0, IMC = 0x00d8, RCTL = 0x0100, TCTL = 0x0400, TIPG = 0x0410,
    RDBAL = 0x2800, RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818,
    TDBAL = 0x3800, TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818,
    MTA = 0x5200, RAL0 = 0x5400, RAH0 = 0x5404,
};

#define CTRL_ASDE        (1u << 5) // find out the wire's speed
#define CTRL_SLU         (1u << 6) // set link up
#define CTRL_RST         (1u << 26) // clears itself
#define STATUS_LU        (1u << 1) // there is a link
#define EERD_START       (1u << 0)
#define EERD_DONE        (1u << 4)
#define INT_TXDW         (1u << 0) // a descriptor that asked for it was sent
#define INT_LSC          (1u << 2) // the link came or went
#define INT_RXT0         (1u << 7) // a frame came
#define RCTL_EN          (1u << 1)
#define RCTL_BAM         (1u << 15) // take broadcasts
#define RCTL_SECRC       (1u << 26) // strip the frame's checksum
#define TCTL_EN          (1u << 1)
#define TCTL_PSP         (1u << 3) // pad short frames
#define RAH_AV           (1u << 31) // this address is valid

static volatile uint8_t *card;

static inline uint32_t get(uint32_t reg)
{
    return *(volatile uint32_t *)(card + reg);
}

static inline void set(uint32_t reg, uint32_t value)
{
    *(volatile uint32_t *)(card + reg) = value;
}

// --- the rings, 3.2.6 and 3.4: 16 bytes per descriptor in our memory. The card works from head (it moves that) to tail (we move
// that): what lies between is the card's. Equal means it has none. It tells that it is done with one by the bit DD in it. ---

#define RING    64 // descriptors: the ring's length in bytes must be a multiple of 128
#define BUFFER  2048 // bytes, what RCTL says when its size bits are 0
#define DD      1 // descriptor done, in both kinds of status
#define TX_EOP  0x01 // the frame ends here
#define TX_IFCS 0x02 // the card appends the frame's checksum
#define TX_RS   0x08 // say when it is done

static volatile struct { // 3.2.3
    uint64_t address;
    uint16_t length, checksum;
    uint8_t status, errors;
    uint16_t special;
} rx[RING] __attribute__((aligned(16)));

static volatile struct { // 3.3.3, "legacy"
    uint64_t address;
    uint16_t length;
    uint8_t checksum_offset, command, status, checksum_start;
    uint16_t special;
} tx[RING] __attribute__((aligned(16)));

static uint8_t rx_memory[RING][BUFFER], tx_memory[RING][BUFFER];
static uint32_t rx_next, tx_next, tx_oldest; // descriptors, counted for ever: the next to look at, to fill, to come back
static bool interrupts;
static uint8_t mac[6];

static const char *const card_name = "82540EM";

// --- the interrupt, by its wire: a level that stays until ICR was read, through the 8259A that firmware has set to "level" ---

extern uint64_t idt[][2]; // of start.S

__attribute__((interrupt)) static void on_interrupt(void *frame)
{
    (void)frame;
    get(ICR); // reading clears all causes, and with them the wire
    outb(PIC_SLAVE, PIC_EOI);
    outb(PIC_MASTER, PIC_EOI);
}

static void use_interrupt(void)
{
    uint8_t line = pci_read(0x3c) & 15; // firmware wrote down where the wire ends
    uint64_t handler = (uint64_t)on_interrupt;
    uint16_t mask = (uint16_t)~(1u << line & ~4u) & (uint16_t)~4u; // line 2 is where the slave hangs
    idt[0x20 + line][0] = (handler & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | (handler & 0xffff0000) << 32;
    idt[0x20 + line][1] = 0;
    static const uint8_t set_up[2][4] = {{0x11, 0x20, 4, 1}, {0x11, 0x28, 2, 1}}; // ICW1 to 4: vectors from 0x20, cascade, 8086
    for (int i = 0; i < 4; i++) {
        outb((uint16_t)(PIC_MASTER + (i > 0)), set_up[0][i]);
        outb((uint16_t)(PIC_SLAVE + (i > 0)), set_up[1][i]);
    }
    outb(PIC_MASTER + 1, (uint8_t)mask);
    outb(PIC_SLAVE + 1, (uint8_t)(mask >> 8));
    set(IMS, INT_RXT0 | INT_TXDW | INT_LSC);
    interrupts = true;
}

static inline void rest(void) // between two looks at the rings
{
    if (interrupts)
        __asm__ volatile("sti; hlt; cli" : : : "memory"); // STI works after HLT has begun: no wake-up is lost
    else
        __asm__ volatile("pause" : : : "memory");
}

// --- sending ---

// A buffer for a frame of at most BUFFER bytes; 0 while all are on their way.
static inline uint8_t *transmit_buffer(void)
{
    while (tx_oldest != tx_next && tx[tx_oldest % RING].status & DD)
        tx_oldest++;
    return tx_next - tx_oldest == RING - 1 ? 0 : tx_memory[tx_next % RING]; // one stays free: a full ring would look empty
}

static inline uint32_t on_their_way(void)
{
    transmit_buffer();
    return tx_next - tx_oldest;
}

// Fills a descriptor; the card need not look before doorbell().
static inline void transmit(uint16_t length)
{
    uint32_t at = tx_next++ % RING;
    tx[at].address = (uint64_t)tx_memory[at];
    tx[at].length = length;
    tx[at].status = 0;
    tx[at].command = TX_EOP | TX_IFCS | TX_RS;
}

static inline void doorbell(void)
{
    __asm__ volatile("" : : : "memory"); // the descriptors before the tail: x86 keeps stores in order, the compiler is told
    set(TDT, tx_next % RING);
}

// --- receiving ---

// The length of the next frame, and where it is; 0: none is there. Good until received().
static inline uint32_t receive(uint8_t **frame)
{
    uint32_t at = rx_next % RING;
    if (!(rx[at].status & DD))
        return 0;
    __asm__ volatile("" : : : "memory");
    *frame = rx_memory[at];
    return rx[at].length;
}

static inline void received(void) // the descriptor is the card's again
{
    uint32_t at = rx_next++ % RING;
    rx[at].status = 0;
    __asm__ volatile("" : : : "memory");
    set(RDT, at); // the tail is one beyond the last it may use; this one stays ours until the next is given back
}

// --- getting there, chapter 14 ---

static uint16_t eeprom(uint32_t word) // 5.3.1
{
    set(EERD, word << 8 | EERD_START);
    while (!(get(EERD) & EERD_DONE))
        ;
    return (uint16_t)(get(EERD) >> 16);
}

static void start_device(bool with_interrupts)
{
    if (!pci_find(0x100e8086)) // vendor 0x8086, Intel; device 0x100e
        fail("no 82540EM on bus 0");
    card = pci_memory(0);
    set(IMC, ~0u); // no interrupts yet
    set(CTRL, get(CTRL) | CTRL_RST); // 14.3
    while (get(CTRL) & CTRL_RST)
        ;
    set(IMC, ~0u);
    get(ICR);

    uint16_t sum = 0;
    for (uint32_t word = 0; word < 64; word++) {
        uint16_t value = eeprom(word);
        sum = (uint16_t)(sum + value);
        if (word < 3) // 5.6.1: the address, two bytes in each word
            mac[2 * word] = (uint8_t)value, mac[2 * word + 1] = (uint8_t)(value >> 8);
    }
    if (sum != 0xbaba) // 5.6.35
        fail("the EEPROM's checksum is wrong");

    set(CTRL, get(CTRL) | CTRL_SLU | CTRL_ASDE); // 14.3
    for (uint32_t i = 0; i < 128; i++) // 14.4: no multicasts
        set(MTA + 4 * i, 0);
    set(RAL0, mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24);
    set(RAH0, mac[4] | (uint32_t)mac[5] << 8 | RAH_AV);

    for (int i = 0; i < RING; i++)
        rx[i].address = (uint64_t)rx_memory[i];
    set(RDBAL, (uint32_t)(uint64_t)rx);
    set(RDBAH, 0);
    set(RDLEN, sizeof rx);
    set(RDH, 0);
    set(RDT, RING - 1); // all but one are the card's
    set(TDBAL, (uint32_t)(uint64_t)tx); // 14.5
    set(TDBAH, 0);
    set(TDLEN, sizeof tx);
    set(TDH, 0);
    set(TDT, 0);
    set(TIPG, 10 | 8 << 10 | 6 << 20); // gaps between frames on copper
    set(TCTL, TCTL_EN | TCTL_PSP | 15 << 4 | 0x40 << 12); // collisions, as the manual recommends for full duplex
    if (with_interrupts)
        use_interrupt();
    set(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
}

static inline bool link_up(void)
{
    return get(STATUS) & STATUS_LU;
}

// For the curious: where both sides are.
static inline void print_rings(void)
{
    print("  tx head ");
    print_decimal(get(TDH));
    print(" tail ");
    print_decimal(get(TDT));
    print(", rx head ");
    print_decimal(get(RDH));
    print(" tail ");
    print_decimal(get(RDT));
    print("\n");
}

static void stop_device(void)
{
    set(IMC, ~0u);
    set(RCTL, 0);
    set(TCTL, 0);
}
