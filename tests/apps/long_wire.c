/* A long wire between two network namespaces: `long_wire NAMESPACE-FILE DEVICE NAMESPACE-FILE DEVICE`, as root. Makes a TUN
 * device in each, says "ready", and carries every packet from one to the other. Each line of its standard input is a
 * round trip in microseconds and a loss in 1/1000, which hold for what comes then; says "set". Ends with its input.
 *
 * The kernel's own means for this (netem, tc-netem(8)) is a module that not every kernel has. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, SLOTS = 1 << 16 };

struct packet {
    long long due;
    int length;
    char data[MTU];
};

/* One direction: what waits in it, in order. A full one drops, as a router's queue does. */
struct way {
    unsigned first, next;
    int to;
    struct packet packets[SLOTS];
};

static long long delay;
static int loss;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int device(const char *namespace, const char *name)
{
    struct ifreq wish = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int file = open(namespace, O_RDONLY | O_CLOEXEC);
    if (file < 0 || setns(file, CLONE_NEWNET))
        err(1, "%s", namespace);
    close(file);
    strncpy(wish.ifr_name, name, IFNAMSIZ - 1);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &wish))
        err(1, "the device %s", name);
    return fd;
}

/* Takes what there is. */
static void take(int from, struct way *way)
{
    for (int tries = 0; tries < 256; tries++) {
        struct packet *packet = &way->packets[way->next % SLOTS];
        if (way->next - way->first == SLOTS || (packet->length = read(from, packet->data, MTU)) <= 0)
            return;
        if (random() % 1000 < loss)
            continue;
        packet->due = now() + delay;
        way->next++;
    }
}

/* Gives what is due; when the next one is. */
static long long give(struct way *way)
{
    for (; way->first != way->next; way->first++) {
        struct packet *packet = &way->packets[way->first % SLOTS];
        if (packet->due > now())
            return packet->due;
        /* A device that takes it not has lost it. */
        if (write(way->to, packet->data, packet->length) < 0 && errno != EAGAIN && errno != EIO)
            err(1, "a packet");
    }
    return 0;
}

int main(int count, char **words)
{
    if (count != 5)
        errx(2, "usage: see the head of long_wire.c");
    int ends[2] = {device(words[1], words[2]), device(words[3], words[4])};
    struct way *there = calloc(1, sizeof *there), *back = calloc(1, sizeof *back);
    if (!there || !back)
        err(1, "memory");
    there->to = ends[1];
    back->to = ends[0];
    puts("ready");
    fflush(stdout);
    for (;;) {
        long long a = give(there), b = give(back), soonest = a && (!b || a < b) ? a : b, left = soonest - now();
        struct timespec wait = {.tv_nsec = left > 0 ? left % 1000000000 : 0, .tv_sec = left > 0 ? left / 1000000000 : 0};
        struct pollfd fds[] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}, {0, POLLIN, 0}};
        ppoll(fds, 3, soonest ? &wait : NULL, NULL);
        if (fds[0].revents)
            take(ends[0], there);
        if (fds[1].revents)
            take(ends[1], back);
        if (fds[2].revents) {
            char line[64] = "";
            long long round_trip;
            if (read(0, line, sizeof line - 1) <= 0)
                return 0;
            if (sscanf(line, "%lld %d", &round_trip, &loss) == 2) {
                delay = round_trip * 1000 / 2;
                puts("set");
                fflush(stdout);
            }
        }
    }
}
