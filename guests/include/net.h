// As much of a network as a frame needs: Ethernet, ARP (RFC 826), IPv4 (RFC 791), ICMP echo (RFC 792). A card's driver.h comes
// first: mac, transmit_buffer(), transmit(), doorbell(), receive(), received(), rest().

static uint8_t ours[4] = {10, 0, 2, 15}, theirs[4] = {10, 0, 2, 2}; // IP addresses: QEMU's user network
static uint8_t their_mac[6];
static bool found; // their_mac is known
static uint32_t echoes, answered; // replies to our pings; requests we have answered
static uint16_t last_echo; // sequence number of the last reply

static inline void copy(void *to, const void *from, uint64_t length)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
}

static inline void clear(void *to, uint64_t length)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(0) : "memory");
}

static inline bool same(const void *a, const void *b, uint64_t length)
{
    const uint8_t *x = a, *y = b;
    while (length && *x == *y)
        x++, y++, length--;
    return !length;
}

static inline uint16_t get16(const uint8_t *at) // network order: the high byte first
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

// RFC 1071: the sum of all 16-bit words, what overflows added again, complemented. Over data with a right checksum in it: 0.
static inline uint16_t checksum(const uint8_t *data, uint32_t length)
{
    uint32_t sum = 0;
    for (; length > 1; data += 2, length -= 2)
        sum += get16(data);
    if (length)
        sum += (uint32_t)*data << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static inline void print_bytes(const uint8_t *bytes, int count, bool hex)
{
    for (int i = 0; i < count; i++) {
        if (i)
            put(hex ? ':' : '.');
        if (hex)
            print_hex(bytes[i], 2);
        else
            print_decimal(bytes[i]);
    }
}

// "1.2.3.4" after `name` on the command line.
static void address(const char *line, const char *name, uint8_t *to)
{
    const char *text = option(line, name);
    for (int i = 0; text && i < 4; i++, text++) {
        for (to[i] = 0; *text >= '0' && *text <= '9'; text++)
            to[i] = (uint8_t)(10 * to[i] + *text - '0');
        if (*text != '.' && i < 3)
            fail("an IP address is four numbers");
    }
}

static uint8_t *buffer(void) // waits for one
{
    uint8_t *at;
    while (!(at = transmit_buffer()))
        rest();
    return at;
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

#define ETHERNET 14 // bytes of the header: to, from, what follows

static uint8_t *ethernet(const uint8_t *to, uint16_t type) // begins a frame
{
    uint8_t *frame = buffer();
    clear(frame, 60);
    copy(frame, to, 6);
    copy(frame + 6, mac, 6);
    put16(frame + 12, type);
    return frame;
}

// Who has `who`? Or, as an answer: we are here.
static void send_arp(bool answer, const uint8_t *to, const uint8_t *who)
{
    uint8_t *frame = ethernet(to, 0x0806), *arp = frame + ETHERNET;
    put16(arp, 1); // Ethernet
    put16(arp + 2, 0x0800); // IPv4
    arp[4] = 6, arp[5] = 4; // bytes of their addresses
    put16(arp + 6, answer ? 2 : 1);
    copy(arp + 8, mac, 6);
    copy(arp + 14, ours, 4);
    if (answer)
        copy(arp + 18, to, 6);
    copy(arp + 24, who, 4);
    transmit(60); // the shortest a frame may be, without its checksum
    doorbell();
}

// An ICMP echo request of `size` bytes, numbered.
static void send_ping(uint16_t number, uint16_t size)
{
    uint8_t *frame = ethernet(their_mac, 0x0800), *ip = frame + ETHERNET, *icmp = ip + 20;
    uint16_t total = (uint16_t)(28 + size);
    for (uint16_t i = 0; i < size; i++)
        icmp[8 + i] = (uint8_t)(number + i);
    ip[0] = 0x45; // version 4, a header of 5 words
    put16(ip + 2, total);
    ip[8] = 64; // hops
    ip[9] = 1; // ICMP
    copy(ip + 12, ours, 4);
    copy(ip + 16, theirs, 4);
    put16(ip + 10, checksum(ip, 20));
    icmp[0] = 8; // echo request
    put16(icmp + 4, 0x7079);
    put16(icmp + 6, number);
    put16(icmp + 2, checksum(icmp, 8u + size));
    transmit((uint16_t)(ETHERNET + total < 60 ? 60 : ETHERNET + total));
    doorbell();
}

static void on_arp(const uint8_t *arp)
{
    if (get16(arp + 6) == 1 && same(arp + 24, ours, 4)) // somebody asks for us
        send_arp(true, arp + 8, arp + 14);
    if (same(arp + 14, theirs, 4)) {
        copy(their_mac, arp + 8, 6);
        found = true;
    }
}

static void on_ip(const uint8_t *frame, uint32_t length)
{
    const uint8_t *ip = frame + ETHERNET, *icmp = ip + 20;
    uint32_t total = get16(ip + 2);
    if (ip[0] != 0x45 || ip[9] != 1 || total < 28 || ETHERNET + total > length || !same(ip + 16, ours, 4))
        return;
    if (checksum(ip, 20) || checksum(icmp, total - 20))
        fail("a checksum is wrong");
    if (icmp[0] == 0 && get16(icmp + 4) == 0x7079) { // reply
        for (uint32_t i = 0; i < total - 28; i++)
            if (icmp[8 + i] != (uint8_t)(get16(icmp + 6) + i))
                fail("the reply is not what was sent");
        last_echo = get16(icmp + 6);
        echoes++;
    }
    if (icmp[0] == 8) { // request: the same back, addresses swapped
        uint8_t *reply = buffer();
        copy(reply, frame, ETHERNET + total);
        copy(reply, frame + 6, 6);
        copy(reply + 6, mac, 6);
        copy(reply + ETHERNET + 12, ip + 16, 4);
        copy(reply + ETHERNET + 16, ip + 12, 4);
        reply[ETHERNET + 20] = 0;
        put16(reply + ETHERNET + 22, 0);
        put16(reply + ETHERNET + 22, checksum(reply + ETHERNET + 20, total - 20));
        transmit((uint16_t)(ETHERNET + total < 60 ? 60 : ETHERNET + total));
        doorbell();
        answered++;
    }
}

// Looks at every frame that has come.
static void look(void)
{
    uint8_t *frame;
    uint32_t length;
    while ((length = receive(&frame))) {
        if (length >= 42 && get16(frame + 12) == 0x0806)
            on_arp(frame + ETHERNET);
        else if (length >= 42 && get16(frame + 12) == 0x0800)
            on_ip(frame, length);
        received();
    }
}

static inline uint64_t cycles(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return low | (uint64_t)high << 32;
}

#define SECOND 2000000000u // in cycles, roughly: for asking again

static void find_them(void)
{
    while (!found) {
        uint64_t again = cycles() + SECOND;
        send_arp(false, everybody, theirs);
        for (look(); !found && (interrupts || cycles() < again); look())
            rest();
    }
}

static void ping(uint16_t number, uint16_t size) // until it is answered
{
    uint32_t before = echoes;
    while (echoes == before) {
        uint64_t again = cycles() + 10ull * SECOND; // a busy host is no lost frame: the other counts what it has answered
        send_ping(number, size);
        for (look(); echoes == before && (interrupts || cycles() < again); look())
            rest();
    }
    if (last_echo != number)
        fail("the reply to another ping");
}
