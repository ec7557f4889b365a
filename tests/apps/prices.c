/* What single calls cost, in nanoseconds, as "NAME NS" a line:
 *   prices serve ADDRESS            accepts and closes for ever; prints its port
 *   prices local COUNT              calls that stay on the machine
 *   prices connect ADDRESS PORT N   connect() to a service
 *   prices start COUNT PROGRAM      a program from its start to its end
 * Each figure is the median of several batches, so that one batch that was interrupted does not count. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
enum { BATCHES = 15 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static double median(double *values, int count)
{
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

static struct sockaddr_in at(const char *address, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1)
        errx(2, "%s is no IPv4 address", address);
    return in;
}

static void check(int failed, const char *call)
{
    if (failed)
        err(1, "%s", call);
}

/* Times `call`, an expression that is true when it failed. */
#define PRICE(name, count, call)                                                                                       \
    do {                                                                                                               \
        double batches[BATCHES];                                                                                       \
        for (int b = 0; b < BATCHES; b++) {                                                                            \
            double begin = now();                                                                                       \
            for (int i = 0; i < (count) / BATCHES; i++)                                                                \
                check(call, name);                                                                                     \
            batches[b] = (now() - begin) / ((count) / BATCHES);                                                         \
        }                                                                                                              \
        printf("%s %.1f\n", name, median(batches, BATCHES));                                                           \
    } while (0)

static void local(int count)
{
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), value = 1, fd;
    struct sockaddr_in own = at("127.0.0.1", 0), from;
    socklen_t length = sizeof own;
    char text[64] = "x";
    struct iovec part = {text, 1};
    check(bind(udp, (void *)&own, sizeof own) || getsockname(udp, (void *)&own, &length), "bind");

    PRICE("connect", count, connect(udp, (void *)&own, sizeof own) != 0);
    PRICE("getpeername", count, getpeername(udp, (void *)&from, (length = sizeof from, &length)) != 0);
    PRICE("getsockname", count, getsockname(udp, (void *)&from, (length = sizeof from, &length)) != 0);
    PRICE("sendto+recvfrom", count,
          sendto(udp, text, 1, 0, (void *)&own, sizeof own) != 1
              || recvfrom(udp, text, 1, 0, (void *)&from, (length = sizeof from, &length)) != 1);
    PRICE("sendmsg+recvmsg", count,
          sendmsg(udp, &(struct msghdr){.msg_name = &own, .msg_namelen = sizeof own, .msg_iov = &part, .msg_iovlen = 1}, 0) != 1
              || recvmsg(udp, &(struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1}, 0) != 1);
    PRICE("getsockopt", count, getsockopt(tcp, SOL_SOCKET, SO_ERROR, &value, (length = sizeof value, &length)) != 0);
    PRICE("setsockopt", count, setsockopt(tcp, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value) != 0);
    PRICE("socket+close", count, (fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0 || close(fd) != 0);
    PRICE("open+close", count, (fd = open("/dev/null", O_RDONLY)) < 0 || close(fd) != 0);
}

static void to_service(const char *address, int port, int count)
{
    struct sockaddr_in service = at(address, port);
    double *times = calloc(count, sizeof *times);
    for (int i = 0; i < count; i++) {
        int tcp = socket(AF_INET, SOCK_STREAM, 0);
        double begin = now();
        check(connect(tcp, (void *)&service, sizeof service) != 0, "connect");
        times[i] = now() - begin;
        /* The server ends first, so that the port is free again at once here. */
        check(read(tcp, &(char){0}, 1) < 0, "read");
        close(tcp);
    }
    printf("connect %.1f\n", median(times, count));
}

static void start(int count, char **program)
{
    double *times = calloc(count, sizeof *times);
    for (int i = 0; i < count; i++) {
        pid_t pid;
        int status;
        double begin = now();
        check(posix_spawn(&pid, program[0], NULL, NULL, program, environ) != 0, "posix_spawn");
        check(waitpid(pid, &status, 0) != pid || status != 0, "waitpid");
        times[i] = now() - begin;
    }
    printf("start %.1f\n", median(times, count));
}

static void serve(const char *address)
{
    struct sockaddr_in own = at(address, 0);
    socklen_t length = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(listener, (void *)&own, sizeof own) || listen(listener, 512)
              || getsockname(listener, (void *)&own, &length), "listen");
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    for (;;)
        close(accept(listener, NULL, NULL));
}

int main(int count, char **words)
{
    if (count == 3 && !strcmp(words[1], "serve"))
        serve(words[2]);
    else if (count == 3 && !strcmp(words[1], "local"))
        local(atoi(words[2]));
    else if (count == 5 && !strcmp(words[1], "connect"))
        to_service(words[2], atoi(words[3]), atoi(words[4]));
    else if (count == 4 && !strcmp(words[1], "start"))
        start(atoi(words[2]), words + 3);
    else
        errx(2, "usage: see the head of prices.c");
    return 0;
}
