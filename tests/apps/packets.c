/* How fast datagrams to a service are, and how many a second:
 *   packets serve ADDRESS                 the service, for ever; prints its port
 *   packets ask ADDRESS PORT COUNT SIZE   COUNT datagrams there and back, one after the other; says "p50 US", "p99 US"
 *   packets send ADDRESS PORT MS SIZE     as many as the socket takes for so long; says "sent PER_SECOND", and "came
 *                                         PER_SECOND", from the first to the last that the service got
 * The first byte tells the service what is wanted: A an echo, C the count, anything else is counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65507, LIMIT_MS = 500 };
static char data[MOST];

struct count {
    char what;
    long long came;
    double first, last;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static struct sockaddr_in at(const char *address, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1)
        errx(2, "%s is no IPv4 address", address);
    return in;
}

static void serve(const char *address)
{
    struct sockaddr_in own = at(address, 0), from;
    socklen_t length = sizeof own;
    struct count count = {.what = 'C'};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){16 << 20}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4 << 20}, sizeof(int));
    if (bind(fd, (void *)&own, sizeof own) || getsockname(fd, (void *)&own, &length))
        err(1, "bind");
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    for (;;) {
        ssize_t size = recvfrom(fd, data, sizeof data, 0, (void *)&from, (length = sizeof from, &length));
        if (size > 0 && data[0] == 'A') {
            sendto(fd, data, size, 0, (void *)&from, length);
        } else if (size > 0 && data[0] == 'C') {
            sendto(fd, &count, sizeof count, 0, (void *)&from, length);
            count = (struct count){.what = 'C'};
        } else {
            count.last = now();
            if (count.came++ == 0)
                count.first = count.last;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static void ask(int fd, int count, int size)
{
    double *times = calloc(count, sizeof *times);
    data[0] = 'A';
    for (int i = 0; i < count; i++) {
        double begin = now();
        if (send(fd, data, size, 0) != size || recv(fd, data, sizeof data, 0) != size)
            err(1, "the echo");
        times[i] = now() - begin;
    }
    qsort(times, count, sizeof *times, by_value);
    printf("p50 %.1f\np99 %.1f\n", times[count / 2], times[count * 99 / 100]);
}

static struct count counted(int fd)
{
    struct count count = {0};
    /* What was sent before is before it in every queue. */
    for (int tries = 0; tries < 20 && count.what != 'C'; tries++)
        if (send(fd, "C", 1, 0) == 1 && recv(fd, &count, sizeof count, 0) < 0)
            continue;
    if (count.what != 'C')
        errx(1, "the service does not tell its count");
    return count;
}

static void flood(int fd, int ms, int size)
{
    long long sent = 0;
    counted(fd);
    data[0] = 'D';
    double begin = now(), took;
    while ((took = now() - begin) < ms * 1e3)
        sent += send(fd, data, size, 0) == size;
    struct count count = counted(fd);
    printf("sent %.1f\ncame %.1f\n", sent * 1e6 / took, (count.came - 1) * 1e6 / (count.last - count.first));
}

int main(int words, char **word)
{
    if (words == 3 && !strcmp(word[1], "serve"))
        serve(word[2]);
    if (words != 6 || (strcmp(word[1], "ask") && strcmp(word[1], "send")) || atoi(word[5]) > MOST)
        errx(2, "usage: see the head of packets.c");
    struct sockaddr_in service = at(word[2], atoi(word[3]));
    int fd = socket(AF_INET, SOCK_DGRAM, 0), flooding = !strcmp(word[1], "send");
    struct timeval limit = {.tv_sec = flooding ? 0 : 20, .tv_usec = flooding ? LIMIT_MS * 1000 : 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (void *)&service, sizeof service))
        err(1, "connect");
    (flooding ? flood : ask)(fd, atoi(word[4]), atoi(word[5]));
    return 0;
}
