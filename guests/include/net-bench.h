// What the network benchmarks do, whatever the card. On the command line, with what holds when not said:
//   op=send      send: frames as fast as the card takes them; ping: one ping after another to peer=
//   size=60      bytes per frame, without its checksum
//   batch=16     frames per doorbell
//   count=1000   frames, or pings
//   irq          sleep until the interrupt; else look all the time
//   ip=, peer=   as in net-guest.h
// Time is taken outside, between the lines "go" and "done".

#include "net.h"

__attribute__((noreturn, used)) void run(const char *line)
{
    const char *op = option(line, "op=");
    uint64_t size = number(line, "size=", 60), batch = number(line, "batch=", 16), count = number(line, "count=", 1000);
    address(line, "ip=", ours);
    address(line, "peer=", theirs);
    if (size < 60 || size > 1514 || batch < 1 || batch > 32)
        fail("options");
    start_device(option(line, "irq"));
    bool pings = op && *op == 'p';
    if (pings) {
        while (!link_up())
            rest();
        find_them();
    }
    print("go\n");
    if (pings)
        for (uint64_t n = 0; n < count; n++)
            ping((uint16_t)n, (uint16_t)(size - 42));
    else {
        for (uint64_t n = 0; n < count; n++) {
            uint8_t *frame = buffer();
            copy(frame, everybody, 6);
            copy(frame + 6, mac, 6);
            put16(frame + 12, 0x88b5); // IEEE 802: for experiments
            *(uint64_t *)(frame + 16) = n;
            transmit((uint16_t)size);
            if (n % batch == batch - 1 || n == count - 1)
                doorbell();
        }
        while (on_their_way())
            rest();
    }
    print("done\n");
    stop_device();
    power_off();
}
