/* Uses the network by libc's own calls and prints what it is told: one line a step, the same wherever the network is the
 * same. For any libc: it is built with glibc and with musl. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The first address that the name has in the family; 0 or what getaddrinfo said. */
static int find(const char *name, const char *port, int family, int type, struct sockaddr_storage *address,
                socklen_t *length)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = type}, *found;
    int error = getaddrinfo(name, port, &hints, &found);
    if (error)
        return error;
    memcpy(address, found->ai_addr, found->ai_addrlen);
    *length = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static const char *text(const struct sockaddr_storage *address, int with_port)
{
    static char texts[4][100];
    static int next;
    char *to = texts[next++ % 4], host[60], port[20];
    socklen_t length = address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (getnameinfo((void *)address, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        return "no address";
    snprintf(to, sizeof texts[0], with_port ? "%s %s" : "%s", host, port);
    return to;
}

static void name(const char *host)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    char all[10][100];
    int count = 0, error = getaddrinfo(host, NULL, &hints, &found);
    printf("name %s:", host);
    if (error) {
        /* EAI_NODATA is glibc's; musl has EAI_NONAME for both. */
        printf(" error %d\n", error);
        return;
    }
    for (struct addrinfo *one = found; one && count < 10; one = one->ai_next) {
        struct sockaddr_storage address;
        memcpy(&address, one->ai_addr, one->ai_addrlen);
        strcpy(all[count++], text(&address, 0));
    }
    freeaddrinfo(found);
    qsort(all, count, sizeof all[0], (int (*)(const void *, const void *))strcmp);
    for (int at = 0; at < count; at++)
        printf(" %s", all[at]);
    printf("\n");
}

/* Each libc has words of its own for errors; the numbers are the kernel's. */
static const char *error_of(int number)
{
    static char texts[4][20];
    static int next;
    char *to = texts[next++ % 4];
    snprintf(to, sizeof texts[0], number ? "errno %d" : "ok", number);
    return to;
}

static const char *said(ssize_t result)
{
    return error_of(result < 0 ? errno : 0);
}

/* Blocking, and then waited for by poll(2). */
static void stream(int family, const char *host, const char *port)
{
    struct sockaddr_storage address, own, far;
    socklen_t length, own_length = sizeof own, far_length = sizeof far;
    int error = find(host, port, family, SOCK_STREAM, &address, &length);
    printf("tcp%s %s:", family == AF_INET ? "4" : "6", host);
    if (error) {
        printf(" error %d\n", error);
        return;
    }
    int client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    printf(" %s,", said(connect(client, (void *)&address, length)));
    if (getpeername(client, (void *)&far, &far_length) < 0)
        printf(" %s,", said(-1));
    else if (getsockname(client, (void *)&own, &own_length) == 0)
        printf(" from %s by %s,", text(&far, 1), text(&own, 0));
    close(client);
    client = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    printf(" then %s,", said(connect(client, (void *)&address, length)));
    struct pollfd wait = {.fd = client, .events = POLLOUT};
    int ready = poll(&wait, 1, 20000);
    length = sizeof error;
    if (getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    printf(" poll %d, %s", ready, error_of(error));
    char line[100] = "";
    if (!error) {
        static const char request[] = "GET / HTTP/1.0\r\n\r\n";
        fcntl(client, F_SETFL, 0);
        ssize_t count = write(client, request, sizeof request - 1) < 0 ? -1 : read(client, line, sizeof line - 1);
        line[strcspn(line, "\r\n")] = 0;
        printf(", %s", count < 0 ? said(-1) : line);
    }
    printf("\n");
    close(client);
}

static void datagram(int family, const char *host, const char *port)
{
    struct sockaddr_storage address, from;
    socklen_t length, from_length = sizeof from;
    int error = find(host, port, family, SOCK_DGRAM, &address, &length);
    printf("udp%s %s:", family == AF_INET ? "4" : "6", host);
    if (error) {
        printf(" error %d\n", error);
        return;
    }
    struct timeval patience = {.tv_sec = 20};
    char answer[100] = "";
    int client = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    /* Nobody is told of a refused port by a socket that is not connected. */
    if (strcmp(host, "refuse")) {
        printf(" %s", said(sendto(client, "not connected", 13, 0, (void *)&address, length)));
        ssize_t count = recvfrom(client, answer, sizeof answer - 1, 0, (void *)&from, &from_length);
        printf(" %s, \"%s\" from %s,", said(count), answer, count < 0 ? "nobody" : text(&from, 1));
    }
    memset(answer, 0, sizeof answer);
    printf(" %s", said(connect(client, (void *)&address, length)));
    printf(" %s", said(send(client, "connected", 9, 0)));
    printf(" %s", said(recv(client, answer, sizeof answer - 1, 0)));
    struct iovec part = {.iov_base = "in a message", .iov_len = 12};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (strcmp(host, "refuse")) {
        printf(" \"%s\" %s", answer, said(sendmsg(client, &message, 0)));
        message.msg_name = &from;
        message.msg_namelen = sizeof from;
        part.iov_base = answer;
        part.iov_len = sizeof answer - 1;
        memset(answer, 0, sizeof answer);
        ssize_t count = recvmsg(client, &message, 0);
        printf(" %s, \"%s\" from %s", said(count), answer, count < 0 ? "nobody" : text(&from, 1));
    }
    printf("\n");
    close(client);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    static const char *const names[] = {"backend", "backend.default.svc.cluster.local", "external", "no-such-service",
                                        "localhost"};
    for (size_t at = 0; at < sizeof names / sizeof names[0]; at++)
        name(names[at]);
    static const int families[] = {AF_INET, AF_INET6};
    for (int at = 0; at < 2; at++) {
        stream(families[at], "backend", "80");
        stream(families[at], "refuse", "80");
        stream(families[at], "unreachable", "80");
        stream(families[at], "netunreachable", "80");
        datagram(families[at], "udp-echo", "7");
        datagram(families[at], "refuse", "80");
    }
    stream(AF_INET6, "v6only", "80");
    stream(AF_INET, "v6only", "80");
    /* A child has the network of its parent. */
    pid_t child = fork();
    if (child == 0) {
        printf("child ");
        stream(AF_INET, "backend", "80");
        _exit(0);
    }
    waitpid(child, NULL, 0);
    return 0;
}
