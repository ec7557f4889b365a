/* How fast connections to a service are, and how many at once:
 *   visit serve ADDRESS                        the service, for ever; prints its port
 *   visit get ADDRESS PORT COUNT AT_ONCE       COUNT times: connect, GET, read the answer, close
 *   visit end ADDRESS PORT COUNT AT_ONCE       COUNT times: connect, send, half-close, read to the end, close
 *   visit ask ADDRESS PORT COUNT               COUNT questions and answers, one after the other, on one connection
 *   visit idle ADDRESS PORT COUNT              COUNT connections that have been used once, and a few visits beside them;
 *                                              prints "open COUNT" and keeps them until its standard input ends
 * With `get` the client closes first, as HTTP clients do; with `end` the service answers only after the client's end of
 * data, and closes. Says "p50 US", "p99 US" and "rate PER_SECOND" of those that went well, "failed COUNT", and of
 * those "lost US", the median; "connect US" is the median of connect() alone. A visit that takes 20 s has failed.
 * The first byte tells the service what is wanted: G an answer after an empty line, E after the end, A an echo for ever. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char request[] = "GET / HTTP/1.1\r\nHost: visit\r\n\r\n";
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
enum { FILES = 65536, LIMIT = 20, BESIDE = 100 };

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

/* What each connection of the service wants, by descriptor; 0 before its first byte. */
static char wanted[FILES];

/* Whether the connection goes on. */
static int served(int fd)
{
    char text[4096];
    ssize_t length = recv(fd, text, sizeof text, MSG_DONTWAIT);
    if (length < 0)
        return errno == EAGAIN;
    if (length > 0 && !wanted[fd])
        wanted[fd] = text[0];
    if (wanted[fd] == 'A')
        return length > 0 && send(fd, text, length, MSG_NOSIGNAL) == length;
    /* The request is so short that it comes in one piece, or its end does. */
    if (wanted[fd] == 'G')
        return length > 0 && (!memmem(text, length, "\r\n\r\n", 4)
                              || send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) > 0);
    if (length > 0)
        return 1;
    send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
    return 0;
}

static void serve(const char *address)
{
    struct sockaddr_in own = at(address, 0);
    socklen_t length = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM, 0), ready = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    if (bind(listener, (void *)&own, sizeof own) || listen(listener, 4096)
        || getsockname(listener, (void *)&own, &length) || epoll_ctl(ready, EPOLL_CTL_ADD, listener, &event))
        err(1, "listen");
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(ready, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (!served(fd))
                    close(fd);
                continue;
            }
            if ((fd = accept(listener, NULL, NULL)) < 0 || fd >= FILES) {
                warn("accept");
                continue;
            }
            wanted[fd] = 0;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
            event.data.fd = fd;
            epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event);
        }
    }
}

static struct sockaddr_in service;
static int end_first, count, next;
/* How long each took, below 0 if it failed; and connect() by itself. */
static double *times, *connects;

/* An open connection, or -1. */
static int opened(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = LIMIT};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (fd >= 0 && !connect(fd, (void *)&service, sizeof service))
        return fd;
    close(fd);
    return -1;
}

static int visited(double *connect)
{
    char text[4096];
    size_t got = 0;
    ssize_t length = -1;
    double begin = now();
    int fd = opened();
    *connect = now() - begin;
    if (fd < 0)
        return 0;
    const char *words = end_first ? "E" : request;
    if (send(fd, words, strlen(words), MSG_NOSIGNAL) > 0 && (!end_first || !shutdown(fd, SHUT_WR)))
        while ((end_first || got < sizeof answer - 1) && (length = recv(fd, text, sizeof text, 0)) > 0)
            got += length;
    close(fd);
    return length >= 0 && got == sizeof answer - 1;
}

static void *visitor(void *unused)
{
    for (int i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < count;) {
        double begin = now();
        int good = visited(&connects[i]);
        times[i] = good ? now() - begin : begin - now();
    }
    return unused;
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static void tell(double took)
{
    qsort(times, count, sizeof *times, by_value);
    int failed = 0;
    while (failed < count && times[failed] < 0)
        failed++;
    int good = count - failed;
    if (good)
        printf("p50 %.1f\np99 %.1f\nrate %.1f\n", times[failed + good / 2], times[failed + good * 99 / 100],
               good * 1e6 / took);
    qsort(connects, count, sizeof *connects, by_value);
    if (connects[count / 2] > 0)
        printf("connect %.1f\n", connects[count / 2]);
    if (failed)
        printf("lost %.1f\n", -times[failed / 2]);
    printf("failed %d\n", failed);
}

/* So many threads, each with a small stack, to their end. */
static void all(int threads, void *(*work)(void *))
{
    pthread_t *ids = calloc(threads, sizeof *ids);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    for (int i = 0; i < threads; i++)
        if ((errno = pthread_create(&ids[i], &small, work, NULL)))
            err(1, "pthread_create");
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
}

static void ask(void)
{
    char byte = 'A';
    int fd = opened();
    if (fd < 0)
        err(1, "connect");
    double begin = now();
    for (int i = 0; i < count; i++) {
        double one = now();
        if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
            err(1, "the echo");
        times[i] = now() - one;
    }
    tell(now() - begin);
}

static void *opener(void *unused)
{
    while (__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) < count) {
        char byte = 'A';
        int fd = opened();
        if (fd < 0 || send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
            err(1, "a connection");
    }
    return unused;
}

static void idle(void)
{
    int open = count;
    all(20, opener);
    double begin = now();
    count = BESIDE;
    next = 0;
    visitor(NULL);
    tell(now() - begin);
    printf("open %d\n", open);
    fflush(stdout);
    while (read(0, &(char){0}, 1) > 0)
        ;
}

int main(int words, char **word)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < FILES ? files.rlim_max : FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    if (words == 3 && !strcmp(word[1], "serve"))
        serve(word[2]);
    if (words < 5)
        errx(2, "usage: see the head of visit.c");
    service = at(word[2], atoi(word[3]));
    count = atoi(word[4]);
    times = calloc(count + BESIDE, sizeof *times);
    connects = calloc(count + BESIDE, sizeof *connects);
    end_first = !strcmp(word[1], "end");
    if (words == 5 && !strcmp(word[1], "ask")) {
        ask();
    } else if (words == 5 && !strcmp(word[1], "idle")) {
        idle();
    } else if (words == 6 && (end_first || !strcmp(word[1], "get"))) {
        double begin = now();
        all(atoi(word[5]), visitor);
        tell(now() - begin);
    } else {
        errx(2, "usage: see the head of visit.c");
    }
    return 0;
}
