// bench-blk: requests as fast as the driver of virtio-blk makes them. On the command line, with what holds when not said:
//   op=read      read, write, flush (in turn a write and a flush, depth 1), or id (no data, no disk: the price of the way alone)
//   size=4096    bytes per request
//   depth=1      requests on their way at the same time (at most 32)
//   count=1000   requests
//   random       at random places (a fixed sequence); else one after the other
//   irq          sleep until the interrupt; else look all the time
// Time is taken outside, between the lines "go" and "done".

#include "../virtio-blk/driver.h"

static uint8_t memory[4 << 20] __attribute__((aligned(4096)));
static uint64_t places, place, asked;
static uint32_t type, size;
static bool flush, random;

static void ask(int n)
{
    static uint64_t dice = 1;
    if (flush && asked++ & 1) {
        submit(n, FLUSH, 0, 0, 0);
        return;
    }
    submit(n, type, place * (size / 512), memory + (uint64_t)n * size, size);
    if (random) {
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        place = (dice >> 33) % places;
    } else if (++place == places)
        place = 0;
}

__attribute__((noreturn, used)) void run(const char *line)
{
    const char *op = option(line, "op=");
    uint64_t depth = number(line, "depth=", 1), count = number(line, "count=", 1000), started, done = 0;

    start_device(option(line, "irq"));
    size = (uint32_t)number(line, "size=", 4096);
    type = op && *op == 'i' ? GET_ID : op && *op != 'r' ? WRITE : READ;
    flush = op && *op == 'f';
    random = option(line, "random");
    places = size < 512 ? 0 : capacity() / (size / 512);
    if (depth < 1 || depth > 32 || depth > count || depth * size > sizeof memory || !places || (flush && (!has_flush || depth > 1)))
        fail("options");
    print("go\n");
    for (started = 0; started < depth; started++)
        ask((int)started);
    kick();
    while (done < count) {
        bool again = false;
        do { // all that are done, then one doorbell for those that take their place
            int n = finished();
            done++;
            if (status[n] != OK)
                fail("a request failed");
            if (started < count) {
                ask(n);
                started++;
                again = true;
            }
        } while (more() && done < count);
        if (again)
            kick();
    }
    print("done\n");
    power_off();
}
