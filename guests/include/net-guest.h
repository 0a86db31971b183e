// What the network guests do, whatever the card: say who they are, find the other, ping, and answer pings. On the command line:
//   ip=10.0.2.15     our address
//   peer=10.0.2.2    whom to find and ping
//   pings=4          how often, with more data each time
//   answer=N         instead of that: wait, and be done when N pings have been answered
//   irq              sleep until the card's interrupt; else look all the time

#include "net.h"

__attribute__((noreturn, used)) void run(const char *line)
{
    uint64_t pings = number(line, "pings=", 4), answer = number(line, "answer=", 0);
    address(line, "ip=", ours);
    address(line, "peer=", theirs);

    start_device(option(line, "irq"));
    print(card_name);
    print(" in slot ");
    print_decimal(slot);
    print(interrupts ? ", by interrupt\n" : ", by polling\n");
    print("address ");
    print_bytes(mac, 6, true);
    print("\n");
    while (!link_up())
        rest();
    print("link up\n");
    if (answer) {
        print("waiting for pings to ");
        print_bytes(ours, 4, false);
        print("\n");
        for (look(); answered < answer; look())
            rest();
        while (on_their_way()) // the last answer has left
            rest();
        print("answered ");
        print_decimal(answered);
        print("\n");
    } else {
        print("who has ");
        print_bytes(theirs, 4, false);
        print("?\n");
        print_rings();
        find_them();
        print_bytes(their_mac, 6, true);
        print("\n");
        print_rings();
        for (uint64_t n = 1; n <= pings; n++) {
            uint16_t size = (uint16_t)(32 + (n - 1) * 200 % 1440); // at most 1472: an Ethernet frame's 1500 less two headers
            ping((uint16_t)n, size);
            if (n <= 8) {
                print("ping ");
                print_decimal(n);
                print(", ");
                print_decimal(size);
                print(" bytes: ok\n");
            }
        }
        print_decimal(echoes);
        print(" of ");
        print_decimal(pings);
        print(" pings answered\n");
        print_rings();
    }
    stop_device();
    print("PASS\n");
    power_off();
}
