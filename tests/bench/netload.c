/* Network loads inside a Linux guest: netload SOURCE_PORT SINK_PORT BYTES FRAMES PINGS. eth0 leads to 10.0.2.2, eth1 to nobody
   (10.9.0.2 has a fixed neighbour entry); BYTES go to the sink, the source sends what it has. Prints "go NAME" and "done NAME" around each. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static void need(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_in at(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    return to;
}

static void udp(const char *name, size_t size, long frames)
{
    struct sockaddr_in to = at("10.9.0.2", 9);
    int room = 1 << 14, out = socket(AF_INET, SOCK_DGRAM, 0); /* little room: sendto waits until the card has sent */
    need(setsockopt(out, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0 && connect(out, (void *)&to, sizeof to) == 0, "udp");
    printf("go %s\n", name);
    for (int i = 0; i < frames; i++)
        need(send(out, buffer, size, 0) == (ssize_t)size, "send");
    printf("done %s\n", name);
    close(out);
}

static void tcp(const char *name, int port, long bytes)
{
    struct sockaddr_in to = at("10.0.2.2", port);
    int wire = socket(AF_INET, SOCK_STREAM, 0);
    ssize_t got;
    need(connect(wire, (void *)&to, sizeof to) == 0, "connect");
    printf("go %s\n", name);
    for (long left = bytes; left; left -= got)
        need((got = write(wire, buffer, left < (long)sizeof buffer ? (size_t)left : sizeof buffer)) > 0, "write");
    shutdown(wire, SHUT_WR);
    while ((got = read(wire, buffer, sizeof buffer)) > 0) /* put: until the other end has all and closes */
        ;
    need(got == 0, "read");
    printf("done %s\n", name);
    close(wire);
}

static unsigned short sum(const unsigned short *words, size_t count)
{
    unsigned total = 0;
    while (count--)
        total += *words++;
    total = (total & 0xffff) + (total >> 16);
    return (unsigned short)~(total + (total >> 16));
}

static void ping(const char *name, long pings)
{
    struct sockaddr_in to = at("10.0.2.2", 0);
    struct {
        struct icmphdr head;
        char data[56];
    } message = {.head = {.type = ICMP_ECHO}};
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    need(raw >= 0, "raw");
    printf("go %s\n", name);
    for (int i = 0; i < pings; i++) {
        message.head.un.echo.sequence = htons((unsigned short)i);
        message.head.checksum = 0;
        message.head.checksum = sum((void *)&message, sizeof message / 2);
        need(sendto(raw, &message, sizeof message, 0, (void *)&to, sizeof to) == sizeof message, "sendto");
        struct icmphdr *reply = (void *)(buffer + 20);
        do
            need(recv(raw, buffer, sizeof buffer, 0) > 0, "recv");
        while (reply->type != ICMP_ECHOREPLY || reply->un.echo.sequence != message.head.un.echo.sequence);
    }
    printf("done %s\n", name);
    close(raw);
}

int main(int count, char **words)
{
    need(count == 6, "arguments");
    setvbuf(stdout, 0, _IOLBF, 0);
    udp("udp-64", 18, atol(words[4]));
    udp("udp-1500", 1472, atol(words[4]));
    ping("ping", atol(words[5]));
    tcp("get", atoi(words[1]), 0);
    tcp("put", atoi(words[2]), atol(words[3]));
    return 0;
}
