// The few ports and registers of a PC that the guests touch. Plain #defines: for .S and .c alike.

#define COM1            0x3f8     // first serial port: data register (THR on write, RBR on read)
#define COM1_IER        0x3f9     // interrupt enable; bit 0: a byte was received
#define COM1_MCR        0x3fc     // modem control; bit 3 (OUT2) lets the interrupt out of the UART
#define COM1_LSR        0x3fd     // line status
#define LSR_DATA_READY  0x01      // a received byte waits in COM1
#define LSR_THR_EMPTY   0x20      // the next byte may be written to COM1

#define PM1A_CONTROL    0x604     // ACPI PM1a control register
#define SLEEP_S5        0x2000    // SLP_EN (bit 13) with sleep type 0: power off
#define DEBUG_EXIT      0xf4      // isa-debug-exit: ends the VMM with status (value << 1) | 1
#define I8042_COMMAND   0x64      // keyboard controller
#define I8042_RESET     0xfe      // command: pulse the CPU's reset line

#define PIC_MASTER      0x20      // 8259A command port; data port is one above
#define PIC_SLAVE       0xa0
#define PIC_EOI         0x20      // end of interrupt
#define PIT_CHANNEL_0   0x40
#define PIT_COMMAND     0x43
#define PIT_HZ          1193182   // the PIT's input clock

#define LAPIC           0xfee00000
#define LAPIC_ID        0x020
#define LAPIC_EOI       0x0b0
#define LAPIC_SVR       0x0f0     // spurious vector; bit 8 enables the APIC
#define LAPIC_ICR_LOW   0x300     // interrupt command: writing the low half sends
#define LAPIC_ICR_HIGH  0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_DIVIDE  0x3e0

#define CR0_PE          (1 << 0)
#define CR0_WP          (1 << 16)
#define CR0_PG          (1 << 31)
#define CR4_PSE         (1 << 4)
#define CR4_PAE         (1 << 5)
#define MSR_EFER        0xc0000080
#define EFER_SCE        (1 << 0)
#define EFER_LME        (1 << 8)
#define MSR_STAR        0xc0000081
#define MSR_LSTAR       0xc0000082
#define MSR_SFMASK      0xc0000084

#define PTE_PRESENT     (1 << 0)
#define PTE_WRITE       (1 << 1)
#define PTE_USER        (1 << 2)
#define PTE_LARGE       (1 << 7)
