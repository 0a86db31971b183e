// kill-blk: what a disk has said to be kept must be there, whatever happens to the machine afterwards. Block n (512 bytes, all 64 words
// made from n) goes to sector n modulo capacity; after its flush the number is printed. It never ends by itself, unless the disk fails:
// then it says so and tries the same block again, until that works.

#include "../virtio-blk/driver.h"

static uint64_t block[64];

__attribute__((noreturn, used)) void run(const char *line)
{
    start_device(option(line, "irq"));
    if (!has_flush)
        fail("the device has no flush");
    print("go\n");
    for (uint64_t n = 1;;) {
        for (uint64_t i = 0; i < 64; i++)
            block[i] = n << 8 | i;
        uint8_t result = request(WRITE, n % capacity(), block, sizeof block);
        if (result == OK)
            result = request(FLUSH, 0, 0, 0);
        if (result == OK) {
            print_decimal(n++);
            print("\n");
        } else if (result == IOERR)
            print("I/O error\n");
        else
            fail("the device answers nonsense");
    }
}
