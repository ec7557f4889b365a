/* Datagrams to a service that echoes and to one that refuses, in every way that libc has: one line a way, the same
   wherever the network is the same. `udp ECHO REFUSED`, both names of dual-stack services, on port 7 and 80. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 65507
static char sent[MOST], got[MOST + 100];

struct place {
  struct sockaddr_storage at;
  socklen_t length;
};

static struct place find(const char *name, const char *port, int family) {
  struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_DGRAM}, *found;
  int failed = getaddrinfo(name, port, &hints, &found);
  if (failed) {
    printf("%s: %s\n", name, gai_strerror(failed));
    exit(1);
  }
  struct place place = {.length = found->ai_addrlen};
  memcpy(&place.at, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return place;
}

/* The v4-mapped spelling of an IPv4 place. */
static struct place mapped(struct place place) {
  struct sockaddr_in *four = (void *)&place.at;
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = four->sin_port};
  six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
  memcpy(six.sin6_addr.s6_addr + 12, &four->sin_addr, 4);
  memcpy(&place.at, &six, sizeof six);
  place.length = sizeof six;
  return place;
}

static int datagrams(int family) {
  int fd = socket(family, SOCK_DGRAM, 0);
  struct timeval patience = {.tv_sec = 10};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

static const char *is(struct place place, void *source, socklen_t length) {
  return length == place.length && !memcmp(source, &place.at, length) ? "the service" : "somebody else";
}

static const char *result(long length) {
  static char text[32];
  if (length < 0) return strerrorname_np(errno);
  snprintf(text, sizeof text, "%ld", length);
  return text;
}

/* A datagram there and back, by sendto and recvfrom. */
static void there_and_back(const char *what, int fd, struct place to, struct place expected, size_t size) {
  struct place from = {.length = sizeof from.at};
  memset(got, 0, sizeof got);
  printf("%s sendto %s", what, result(sendto(fd, sent, size, 0, (void *)&to.at, to.length)));
  long length = recvfrom(fd, got, sizeof got, 0, (void *)&from.at, &from.length);
  printf(", recvfrom %s %s from %s\n", result(length), memcmp(sent, got, size) ? "changed" : "whole",
         length < 0 ? "nobody" : is(expected, &from.at, from.length));
}

static void sizes_and_sources(const char *what, int family, struct place to, struct place expected) {
  int fd = datagrams(family);
  size_t sizes[] = {0, 1, 1200, 26000, MOST};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) there_and_back(what, fd, to, expected, sizes[i]);
  sendto(fd, sent, 100, 0, (void *)&to.at, to.length);
  struct place from = {.length = sizeof from.at};
  printf("%s peek %s", what, result(recvfrom(fd, got, 10, MSG_PEEK, (void *)&from.at, &from.length)));
  printf(" from %s, ", is(expected, &from.at, from.length));
  printf("peek for the length %s, ", result(recv(fd, got, 0, MSG_PEEK | MSG_TRUNC)));
  from.length = 9;
  memset(&from.at, 0x55, sizeof from.at);
  printf("cut off %s", result(recvfrom(fd, got, 10, MSG_TRUNC, (void *)&from.at, &from.length)));
  int cut = !memcmp(&from.at, &expected.at, 9) && ((char *)&from.at)[9] == 0x55;
  printf(", the source cut off %s, its length %d, ", cut ? "as well" : "wrongly", (int)from.length);
  printf("then %s\n", result(recv(fd, got, 10, MSG_DONTWAIT)));
  close(fd);
}

static void messages(const char *what, int family, struct place to) {
  int fd = datagrams(family);
  struct iovec parts[2] = {{sent, 3}, {sent + 3, 4}};
  struct msghdr message = {.msg_name = &to.at, .msg_namelen = to.length, .msg_iov = parts, .msg_iovlen = 2};
  printf("%s sendmsg %s", what, result(sendmsg(fd, &message, 0)));
  struct place from = {0};
  struct iovec part = {got, 5};
  struct msghdr in = {.msg_name = &from.at, .msg_namelen = sizeof from.at, .msg_iov = &part, .msg_iovlen = 1};
  printf(", recvmsg %s", result(recvmsg(fd, &in, 0)));
  printf(" %s from %s\n", in.msg_flags & MSG_TRUNC ? "cut off" : "whole", is(to, &from.at, in.msg_namelen));

  enum { COUNT = 50 };
  struct mmsghdr out[COUNT], back[COUNT];
  struct place sources[COUNT];
  struct iovec one[COUNT], room[COUNT];
  static char rooms[COUNT][64];
  for (int i = 0; i < COUNT; i++) {
    one[i] = (struct iovec){sent + i, 1 + (i % 7)};
    room[i] = (struct iovec){rooms[i], sizeof rooms[i]};
    message.msg_iov = &one[i];
    message.msg_iovlen = 1;
    out[i] = (struct mmsghdr){message, 0};
    struct msghdr header = {
        .msg_name = &sources[i].at, .msg_namelen = sizeof sources[i].at, .msg_iov = &room[i], .msg_iovlen = 1};
    back[i] = (struct mmsghdr){header, 0};
  }
  struct mmsghdr before[COUNT];
  memcpy(before, out, sizeof out);
  int count = sendmmsg(fd, out, COUNT, 0), lengths = 1;
  for (int i = 0; i < COUNT; i++) {
    lengths &= out[i].msg_len == one[i].iov_len;
    lengths &= !memcmp(&before[i].msg_hdr, &out[i].msg_hdr, sizeof(struct msghdr));
  }
  printf("%s sendmmsg %s, %s", what, result(count), lengths ? "each told its length" : "lengths are wrong");
  int came = 0, good = 1;
  while (came < COUNT) {
    int more = recvmmsg(fd, back + came, COUNT - came, MSG_WAITFORONE, NULL);
    if (more < 0) break;
    came += more;
  }
  for (int i = 0; i < came; i++)
    good &= back[i].msg_len == one[i].iov_len && !memcmp(rooms[i], sent + i, back[i].msg_len) &&
            !strcmp(is(to, &sources[i].at, back[i].msg_hdr.msg_namelen), "the service");
  printf(", recvmmsg %d, %s\n", came, good ? "all good" : "not all good");
  close(fd);
}

static void connected(const char *what, int family, struct place to) {
  int fd = datagrams(family);
  struct place peer = {.length = sizeof peer.at}, from = {.length = sizeof from.at};
  printf("%s connect %s", what, result(connect(fd, (void *)&to.at, to.length)));
  getpeername(fd, (void *)&peer.at, &peer.length);
  char own[64] = "";
  struct place self = {.length = sizeof self.at};
  getsockname(fd, (void *)&self.at, &self.length);
  getnameinfo((void *)&self.at, self.length, own, sizeof own, NULL, 0, NI_NUMERICHOST);
  printf(" from %s", own);
  printf(" to %s, send %s", is(to, &peer.at, peer.length), result(send(fd, sent, 9, 0)));
  printf(", recvfrom %s", result(recvfrom(fd, got, 9, 0, (void *)&from.at, &from.length)));
  printf(" from %s, write %s", is(to, &from.at, from.length), result(write(fd, sent, 5)));
  printf(", read %s", result(read(fd, got, 9)));
  there_and_back(", with the address,", fd, to, to, 8);
  /* Two copies and a child share it. */
  int copy = dup(fd);
  close(fd);
  if (fork() == 0) _exit(send(copy, sent, 4, 0) == 4 && recv(copy, got, 9, 0) == 4 ? 0 : 1);
  int status;
  wait(&status);
  printf("%s in a child %d", what, status);
  struct sockaddr none = {.sa_family = AF_UNSPEC};
  printf(", disconnect %s", result(connect(copy, &none, sizeof none)));
  printf(", getpeername %s", result(getpeername(copy, (void *)&peer.at, &peer.length)));
  there_and_back(" and then", copy, to, to, 3);
  printf("%s connect again %s", what, result(connect(copy, (void *)&to.at, to.length)));
  printf(", send %s", result(send(copy, sent, 2, 0)));
  printf(", recv %s\n", result(recv(copy, got, 9, 0)));
  close(copy);
}

static void refused(const char *what, int family, struct place to) {
  int fd = datagrams(family);
  printf("%s connect %s", what, result(connect(fd, (void *)&to.at, to.length)));
  printf(", send %s", result(send(fd, sent, 1, 0)));
  printf(", recv %s\n", result(recv(fd, got, 1, 0)));
  printf("%s send %s", what, result(send(fd, sent, 1, 0)));
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  int count = poll(&ready, 1, 10000);
  printf(", poll %d%s%s", count, ready.revents & POLLERR ? " POLLERR" : "", ready.revents & POLLIN ? " POLLIN" : "");
  printf(", send %s", result(send(fd, sent, 1, 0)));
  printf(", send again %s", result(send(fd, sent, 1, 0)));
  int error = 0;
  socklen_t length = sizeof error;
  poll(&ready, 1, 10000);
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  printf(", SO_ERROR %s\n", error ? strerrorname_np(error) : "0");
  close(fd);

  /* One that wants to know all (IP_RECVERR): whose datagram it was, and what was said. */
  fd = datagrams(family);
  int all = 1;
  setsockopt(fd, IPPROTO_IP, IP_RECVERR, &all, sizeof all);
  if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &all, sizeof all);
  connect(fd, (void *)&to.at, to.length);
  send(fd, sent, 1, 0);
  ready = (struct pollfd){.fd = fd};
  printf("%s wants all errors: poll %d", what, poll(&ready, 1, 10000));
  char control[512];
  struct place about = {0};
  struct iovec part = {got, 9};
  struct msghdr in = {.msg_name = &about.at, .msg_namelen = sizeof about.at, .msg_iov = &part, .msg_iovlen = 1};
  in.msg_control = control;
  in.msg_controllen = sizeof control;
  long queued = recvmsg(fd, &in, MSG_ERRQUEUE);
  printf(", %s", queued < 0 ? strerrorname_np(errno) : "an error is queued");
  struct cmsghdr *header = CMSG_FIRSTHDR(&in);
  if (header) {
    struct sock_extended_err error;
    memcpy(&error, CMSG_DATA(header), sizeof error);
    printf(" about %s: %s, origin %d, type %d, code %d\n", is(to, &about.at, in.msg_namelen),
           strerrorname_np(error.ee_errno), error.ee_origin, error.ee_type, error.ee_code);
  }
  close(fd);

  /* Without a connection nobody is told. */
  fd = datagrams(family);
  printf("%s unconnected sendto %s", what, result(sendto(fd, sent, 1, 0, (void *)&to.at, to.length)));
  ready = (struct pollfd){.fd = fd, .events = POLLIN};
  printf(", poll %d\n", poll(&ready, 1, 300));
  close(fd);
}

/* One port, used again at once: closed and bound anew, connected and not. */
static void rebound(struct place to) {
  struct sockaddr_in any = {.sin_family = AF_INET};
  socklen_t length = sizeof any;
  for (int i = 0; i < 4; i++) {
    int fd = datagrams(AF_INET);
    printf("bind %s", result(bind(fd, (void *)&any, sizeof any)));
    getsockname(fd, (void *)&any, &length);
    if (i % 2) printf(", connect %s", result(connect(fd, (void *)&to.at, to.length)));
    there_and_back(",", fd, to, to, 30);
    close(fd);
  }
}

static void control(struct place to) {
  int fd = datagrams(AF_INET), on = 1;
  setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
  union {
    char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr align;
  } room = {0};
  struct iovec part = {sent, 2500};
  struct msghdr message = {.msg_name = &to.at, .msg_namelen = to.length, .msg_iov = &part, .msg_iovlen = 1};
  message.msg_control = room.bytes;
  message.msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(uint16_t));
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *header = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
  struct in_pktinfo info = {.ipi_ifindex = if_nametoindex("eth0")};
  memcpy(CMSG_DATA(header), &info, sizeof info);
  header = CMSG_NXTHDR(&message, header);
  *header = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), IPPROTO_UDP, UDP_SEGMENT};
  uint16_t segment = 1000;
  memcpy(CMSG_DATA(header), &segment, sizeof segment);
  for (int i = 0; i < 2; i++) {
    printf("%s in segments, by an interface: sendmsg %s", i ? "connected" : "unconnected",
           result(sendmsg(fd, &message, 0)));
    for (int left = 2500; left > 0; left -= 1000) printf(", recv %s", result(recv(fd, got, sizeof got, 0)));
    puts("");
    connect(fd, (void *)&to.at, to.length);
    message.msg_name = NULL;
    message.msg_namelen = 0;
  }
  close(fd);
}

int main(int count, char **arguments) {
  if (count != 3) return 64;
  for (int i = 0; i < MOST; i++) sent[i] = i % 251;
  struct place four = find(arguments[1], "7", AF_INET), six = find(arguments[1], "7", AF_INET6);
  sizes_and_sources("v4", AF_INET, four, four);
  sizes_and_sources("v6", AF_INET6, six, six);
  sizes_and_sources("mapped", AF_INET6, mapped(four), mapped(four));
  sizes_and_sources("v4 on a v6 socket", AF_INET6, four, mapped(four));
  messages("v4", AF_INET, four);
  messages("v6", AF_INET6, six);
  messages("mapped", AF_INET6, mapped(four));
  connected("v4", AF_INET, four);
  connected("v6", AF_INET6, six);
  connected("mapped", AF_INET6, mapped(four));
  refused("v4", AF_INET, find(arguments[2], "80", AF_INET));
  refused("v6", AF_INET6, find(arguments[2], "80", AF_INET6));
  refused("mapped", AF_INET6, mapped(find(arguments[2], "80", AF_INET)));
  rebound(four);
  control(four);
  return 0;
}
