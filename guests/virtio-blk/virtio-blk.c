// virtio-blk: a disk driver from nothing. driver.h finds the device and has the ring; here is what a driver does with it.
// "irq" on the command line: sleep until the device's MSI-X message instead of looking all the time.

#include "driver.h"

static uint64_t written[512], read_back[512]; // 4 KiB each
static char id[21];

static void check(uint8_t result, const char *what)
{
    print(what);
    print(result == OK ? ": ok\n" : result == IOERR ? ": I/O error\n" : result == UNSUPP ? ": unsupported\n" : ": no status\n");
    if (result != OK)
        fail(what);
}

__attribute__((noreturn, used)) void run(const char *command_line)
{
    start_device(option(command_line, "irq"));
    print("virtio block device in slot ");
    print_decimal(slot);
    print(", ");
    print_decimal(capacity());
    print(" sectors, ring of ");
    print_decimal(ring.size);
    print(interrupts ? ", by interrupt\n" : ", by polling\n");

    check(request(GET_ID, 0, id, 20), "id"); // 20 bytes, closed by a zero byte only when shorter
    print("id is \"");
    print(id);
    print("\"\n");

    for (uint64_t i = 0; i < 512; i++)
        written[i] = 0x9e3779b97f4a7c15 * (i + 1);
    check(request(WRITE, 8, written, sizeof written), "write 4 KiB at sector 8");
    if (has_flush) // written is not yet kept: that is what flush is for (5.2.6.2)
        check(request(FLUSH, 0, 0, 0), "flush");
    check(request(READ, 8, read_back, sizeof read_back), "read it back");
    for (int i = 0; i < 512; i++)
        if (read_back[i] != written[i])
            fail("it is not what was written");
    print("verified\n");

    // Several requests at once, one doorbell: eight reads of a sector each. They may be done in any order.
    for (int n = 0; n < 8; n++)
        submit(n, READ, (uint64_t)(8 + n), &read_back[64 * (7 - n)], 512);
    kick();
    for (int n = 0; n < 8; n++)
        if (status[finished()] != OK)
            fail("one of eight reads");
    for (int i = 0; i < 512; i++)
        if (read_back[i] != written[(7 - i / 64) * 64 + i % 64])
            fail("one of eight reads brought something else");
    print("8 requests, 1 doorbell: ok\n");

    if (request(READ, capacity(), read_back, 512) != IOERR)
        fail("a read beyond the end must fail");
    print("beyond the end: I/O error, as it must be\n");

    virtio_reset(); // leave the device as it was found
    print("PASS\n");
    power_off();
}
