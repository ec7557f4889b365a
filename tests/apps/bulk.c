/* How fast TCP streams are:
 *   bulk serve ADDRESS                          a sink and a source for ever; prints its port
 *   bulk up|down ADDRESS PORT MIB [STREAMS]     sends or receives so much by each of them, all at once (one by default);
 *                                               prints "up GBIT" or "down GBIT", in Gbit/s of all together
 * The clock of `up` stops when the far end has read the last byte and said so. The far end copies nothing: it lets the
 * kernel throw away what comes (MSG_TRUNC, tcp(7)) and sends the pages of a file. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 256 * 1024, MIB = 1024 * 1024, MOST = 64 };
static __thread char piece[PIECE];

/* What a client says first. */
struct wish {
    unsigned char up;
    unsigned char mib[4];
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in at(const char *address, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1)
        errx(2, "%s is no IPv4 address", address);
    return in;
}

/* Whether all of it was sent; by write(), or where there is a file of one piece, from that. */
static int fill(int fd, int file, long long bytes)
{
    for (ssize_t done; bytes > 0; bytes -= done) {
        size_t length = bytes < PIECE ? bytes : PIECE;
        done = file < 0 ? write(fd, piece, length) : sendfile(fd, file, &(off_t){0}, length);
        if (done <= 0)
            return 0;
    }
    return 1;
}

/* Whether all of it came. */
static int drain(int fd, int flags, long long bytes)
{
    for (ssize_t done; bytes > 0; bytes -= done)
        if ((done = recv(fd, piece, bytes < PIECE ? bytes : PIECE, flags)) <= 0)
            return 0;
    return 1;
}

static void serve(const char *address)
{
    struct sockaddr_in own = at(address, 0);
    socklen_t length = sizeof own;
    int file = memfd_create("piece", 0), listener = socket(AF_INET, SOCK_STREAM, 0);
    if (file < 0 || write(file, piece, PIECE) != PIECE)
        err(1, "a file");
    if (bind(listener, (void *)&own, sizeof own) || listen(listener, 16)
        || getsockname(listener, (void *)&own, &length))
        err(1, "listen");
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        struct wish wish;
        int fd = accept(listener, NULL, NULL);
        /* Each stream has a process; one that cannot be made is a stream that ends early. */
        if (fork() != 0) {
            close(fd);
            continue;
        }
        if (recv(fd, &wish, sizeof wish, MSG_WAITALL) == sizeof wish) {
            long long bytes = (long long)ntohl(*(unsigned *)memcpy(&(unsigned){0}, wish.mib, 4)) * MIB;
            if (!wish.up)
                fill(fd, file, bytes);
            else if (drain(fd, MSG_TRUNC, bytes) && write(fd, "", 1) != 1)
                warn("the last word");
        }
        _exit(0);
    }
}

static int up, mib;
static struct sockaddr_in far;
static pthread_barrier_t connected;

/* One of them, on a thread of its own. */
static void *stream(void *unused)
{
    struct wish wish = {.up = up};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memcpy(wish.mib, &(unsigned){htonl(mib)}, 4);
    if (connect(fd, (void *)&far, sizeof far))
        err(1, "connect");
    pthread_barrier_wait(&connected);
    if (write(fd, &wish, sizeof wish) != sizeof wish)
        err(1, "write");
    if (!(up ? fill(fd, -1, (long long)mib * MIB) && drain(fd, 0, 1) : drain(fd, 0, (long long)mib * MIB)))
        err(1, "the stream ended early");
    return unused;
}

static void move(int streams)
{
    pthread_t ids[MOST];
    pthread_barrier_init(&connected, NULL, streams + 1);
    for (int i = 0; i < streams; i++)
        if (pthread_create(&ids[i], NULL, stream, NULL))
            errx(1, "pthread_create");
    pthread_barrier_wait(&connected);
    double begin = now();
    for (int i = 0; i < streams; i++)
        pthread_join(ids[i], NULL);
    printf("%s %.3f\n", up ? "up" : "down", (double)streams * mib * 8 * MIB / 1e9 / (now() - begin));
}

int main(int count, char **words)
{
    if (count == 3 && !strcmp(words[1], "serve"))
        serve(words[2]);
    int streams = count == 6 ? atoi(words[5]) : 1;
    up = count > 4 && !strcmp(words[1], "up");
    if (count < 5 || count > 6 || streams < 1 || streams > MOST || !(up || !strcmp(words[1], "down")))
        errx(2, "usage: see the head of bulk.c");
    far = at(words[2], atoi(words[3]));
    mib = atoi(words[4]);
    move(streams);
    return 0;
}
