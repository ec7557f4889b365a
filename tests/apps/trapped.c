/* Makes system calls whose answers another process could get wrong: messages in parts, rooms that are too short, memory that
 * is not there, signals while a call waits, threads, filters of its own. Prints one line a step, the same wherever the network is
 * the same. The arguments are the addresses of a web server, of a closed port's host and of one that never answers. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in nameserver = {.sin_family = AF_INET};
static unsigned char question[] = "\0\7\1\0\0\1\0\0\0\0\0\0\7backend\7default\3svc\7cluster\5local\0\0\1\0\1";
static const size_t asked = sizeof question - 1;

static const char *why(long result)
{
    return result < 0 ? strerrorname_np(errno) : "ok";
}

static struct sockaddr_in at(const char *ip, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &address.sin_addr);
    return address;
}

static void read_resolv_conf(void)
{
    char line[256], ip[64] = "";
    FILE *file = fopen("/etc/resolv.conf", "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "nameserver %63s", ip);
    nameserver = at(ip, 53);
    printf("nameserver %s\n", ip);
}

static int udp(void)
{
    struct timeval patience = {10, 0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void ask(int fd)
{
    sendto(fd, question, asked, 0, (void *)&nameserver, sizeof nameserver);
}

static void show(const char *step, long length, const struct sockaddr_in *from, socklen_t name)
{
    int answer = length > (long)asked;
    printf("%s: %s from %s:%d name %u\n", step, answer ? "answer" : why(length), inet_ntoa(from->sin_addr),
           ntohs(from->sin_port), name);
}

static void messages(void)
{
    int fd = udp(), on = 1;
    unsigned char room[600];
    char control[256];
    struct sockaddr_in from[2] = {};
    setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
    struct iovec out[2] = {{question, 5}, {question + 5, asked - 5}}, in[2] = {{room, 12}, {room + 12, 588}};
    struct msghdr send = {&nameserver, sizeof nameserver, out, 2, NULL, 0, 0};
    printf("in parts: %ld\n", (long)sendmsg(fd, &send, 0) - (long)asked);
    struct msghdr receive = {from, sizeof from[0], in, 2, control, sizeof control, 0};
    long length = recvmsg(fd, &receive, 0);
    struct cmsghdr *head = CMSG_FIRSTHDR(&receive);
    show("in parts", length, from, receive.msg_namelen);
    printf("control %d %d flags %x\n", head ? head->cmsg_level : -1, head ? head->cmsg_type : -1, receive.msg_flags);

    struct mmsghdr many[2] = {{.msg_hdr = send}, {.msg_hdr = send}};
    int sent = sendmmsg(fd, many, 2, 0);
    printf("two at once: %d %u %u\n", sent, many[0].msg_len, many[1].msg_len);
    struct iovec rooms[2] = {{room, 300}, {room + 300, 300}};
    for (int number = 0; number < 2; number++)
        many[number].msg_hdr = (struct msghdr){&from[number], sizeof from[0], &rooms[number], 1, NULL, 0, 0};
    struct timespec limit = {10, 0};
    int got = recvmmsg(fd, many, 2, 0, &limit);
    printf("two at once: %d\n", got);
    show("second", many[1].msg_len, &from[1], many[1].msg_hdr.msg_namelen);
    errno = 0;
    got = recvmmsg(fd, many, 2, MSG_DONTWAIT, NULL);
    printf("no more: %s\n", why(got));
    close(fd);
}

static void rooms(void)
{
    int fd = udp();
    unsigned char room[600];
    struct sockaddr_in from = {};
    socklen_t name = sizeof from;
    ask(fd);
    show("peek", recvfrom(fd, room, sizeof room, MSG_PEEK, (void *)&from, &name), &from, name);
    show("peek and its length", recvfrom(fd, room, 4, MSG_PEEK | MSG_TRUNC, (void *)&from, &name), &from, name);
    long length = recvfrom(fd, room, 4, 0, (void *)&from, &name);
    printf("cut: %ld\n", length);
    ask(fd);
    memset(&from, 0, sizeof from);
    name = 4;
    show("short room", recvfrom(fd, room, sizeof room, MSG_WAITALL, (void *)&from, &name), &from, name);
    ask(fd);
    struct sockaddr_in6 wide;
    name = sizeof wide;
    length = recvfrom(fd, room, sizeof room, 0, (void *)&wide, &name);
    printf("wide room: %d name %u\n", length > (long)asked, name);
    struct timeval moment = {0, 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment);
    length = recvfrom(fd, room, sizeof room, 0, (void *)&from, &name);
    printf("in vain: %s\n", why(length));
    close(fd);
}

static void bad_memory(const struct sockaddr_in *closed)
{
    int fd = udp(), tcp = socket(AF_INET, SOCK_STREAM, 0);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    struct sockaddr_in from;
    socklen_t name = sizeof from;
    errno = 0;
    printf("connect nowhere: %s\n", why(connect(tcp, (void *)page + 4096, sizeof from)));
    printf("connect half: %s\n", why(connect(tcp, (void *)page + 4096 - 8, sizeof from)));
    memcpy(page + 4096 - sizeof *closed, closed, sizeof *closed);
    printf("connect at the edge: %s\n", why(connect(tcp, (void *)page + 4096 - sizeof *closed, sizeof from)));
    printf("connect long: %s\n", why(connect(tcp, (void *)closed, 4096)));
    printf("no descriptor: %s\n", why(connect(-1, (void *)closed, sizeof *closed)));
    printf("no socket: %s\n", why(connect(0, (void *)closed, sizeof *closed)));
    printf("send nothing there: %s\n",
           why(sendto(fd, page + 4096, 10, 0, (void *)&nameserver, sizeof nameserver)));
    printf("send half: %s\n", why(sendto(fd, page + 4090, 10, 0, (void *)&nameserver, sizeof nameserver)));
    printf("send too much: %s\n", why(sendto(fd, malloc(70000), 70000, 0, (void *)&nameserver, sizeof nameserver)));
    printf("header nowhere: %s\n", why(syscall(SYS_sendmsg, fd, page + 4096, 0)));
    printf("header nowhere: %s\n", why(syscall(SYS_recvmsg, fd, page + 4096, 0)));
    ask(fd);
    printf("receive nowhere: %s\n", why(recvfrom(fd, page + 4096, 500, 0, (void *)&from, &name)));
    printf("peer nowhere: %s\n", why(getpeername(fd, (void *)page + 4096, &name)));
    printf("open nowhere: %s\n", why(syscall(SYS_openat, AT_FDCWD, page + 4096, 0)));
    close(fd);
    close(tcp);
}

static volatile sig_atomic_t rang;

static void ring(int number)
{
    (void)number;
    /* A call of the handler's own between a call and the same call made anew. */
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    getsockname(0, (void *)&name, &length);
    rang++;
}

static void alarms(const char *word, int flags, const struct sockaddr_in *silent)
{
    struct sigaction action = {.sa_handler = ring, .sa_flags = flags};
    struct itimerval every = {{0, 20000}, {0, 20000}}, never = {};
    sigaction(SIGALRM, &action, NULL);
    struct timeval patience = {0, 300000};
    int fd = udp(), tcp = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){}, sizeof patience);
    unsigned char room[600];
    struct sockaddr_in from;
    socklen_t name = sizeof from;
    setitimer(ITIMER_REAL, &every, NULL);
    if (flags) {
        /* Signals by the dozen lose and double nothing. */
        int right = 0, rounds = 100;
        for (int round = 0; round < rounds; round++) {
            question[1] = round;
            ask(fd);
            right += recvfrom(fd, room, sizeof room, 0, (void *)&from, &name) > (long)asked && room[1] == round;
        }
        printf("%s: %d of %d right\n", word, right, rounds);
    } else {
        printf("%s: receive %s\n", word, why(recvfrom(fd, room, sizeof room, 0, (void *)&from, &name)));
        printf("%s: connect %s\n", word, why(connect(tcp, (void *)silent, sizeof *silent)));
    }
    setitimer(ITIMER_REAL, &never, NULL);
    close(fd);
    close(tcp);
}

static int shared;

static void *first_receive(void *unused)
{
    unsigned char room[600];
    struct sockaddr_in from = {};
    socklen_t name = sizeof from;
    long length = recvfrom(shared, room, sizeof room, 0, (void *)&from, &name);
    show("thread", length, &from, name);
    return unused;
}

static void threads(void)
{
    pthread_t thread;
    shared = udp();
    pthread_create(&thread, NULL, first_receive, NULL);
    usleep(100000);
    ask(shared);
    pthread_join(thread, NULL);
    pthread_create(&thread, NULL, first_receive, NULL);
    usleep(100000);
    connect(shared, (void *)&nameserver, sizeof nameserver);
    shutdown(shared, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(shared);
}

/* A filter of the program's own, of which a child has another that forbids connect(). */
static void filters(const struct sockaddr_in *web)
{
    for (int forbids = 0; forbids < 2; forbids++) {
        fflush(stdout);
        if (fork() == 0) {
            struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbids ? SYS_connect : SYS_getppid, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            struct sock_fprog program = {4, code};
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            printf("filter: %s, ", why(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)));
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            printf("connect %s\n", why(connect(fd, (void *)web, sizeof *web)));
            fflush(stdout);
            _exit(0);
        }
        wait(NULL);
    }
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 2;
    struct sockaddr_in web = at(arguments[1], 80), closed = at(arguments[2], 80), silent = at(arguments[3], 80);
    read_resolv_conf();
    messages();
    rooms();
    bad_memory(&closed);
    alarms("interrupted", 0, &silent);
    alarms("restarted", SA_RESTART, &silent);
    threads();
    filters(&web);
    return 0;
}
