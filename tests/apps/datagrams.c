/* Sends datagrams in every way that names an address: to elsewhere each must fail with ENETUNREACH, and to loopback
   each must arrive. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(what)                                                     \
  do {                                                                  \
    if (!(what)) {                                                      \
      printf("line %d: %s (errno %d)\n", __LINE__, #what, errno);       \
      exit(1);                                                          \
    }                                                                   \
  } while (0)

static struct sockaddr_in at(const char *ip, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

int main(void) {
  struct sockaddr_in pod = at("10.96.0.7", 53), here = at("127.0.0.1", 0);
  socklen_t length = sizeof here;
  int in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0);
  char got[8];
  bind(in, (void *)&here, sizeof here);
  getsockname(in, (void *)&here, &length);

  CHECK(connect(out, (void *)&pod, sizeof pod) == -1 && errno == ENETUNREACH);
  CHECK(sendto(out, "x", 1, 0, (void *)&pod, sizeof pod) == -1 && errno == ENETUNREACH);
  CHECK(sendto(out, "x", 1, 0, (void *)&here, sizeof here) == 1 && read(in, got, 8) == 1);
  /* An IPv4 socket takes AF_UNSPEC for AF_INET. */
  struct sockaddr_in unspecified = pod;
  unspecified.sin_family = AF_UNSPEC;
  CHECK(sendto(out, "x", 1, 0, (void *)&unspecified, sizeof pod) == -1 && errno == ENETUNREACH);

  struct iovec part = {"x", 1};
  struct msghdr message = {.msg_name = &pod, .msg_namelen = sizeof pod, .msg_iov = &part, .msg_iovlen = 1};
  CHECK(sendmsg(out, &message, 0) == -1 && errno == ENETUNREACH);
  struct mmsghdr many[3] = {{message, 0}, {message, 0}, {message, 0}};
  CHECK(sendmmsg(out, many, 3, 0) == -1 && errno == ENETUNREACH);
  many[0].msg_hdr.msg_name = &here;
  many[1].msg_hdr.msg_name = &here;
  CHECK(sendmmsg(out, many, 3, 0) == 2 && read(in, got, 8) == 1 && read(in, got, 8) == 1);
  CHECK(recv(in, got, 8, MSG_DONTWAIT) == -1);

  /* A dual-stack socket, with the v4-mapped spelling and with a plain IPv4 one. */
  int six = socket(AF_INET6, SOCK_DGRAM, 0);
  struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
  inet_pton(AF_INET6, "::ffff:10.96.0.7", &mapped.sin6_addr);
  CHECK(sendto(six, "x", 1, 0, (void *)&mapped, sizeof mapped) == -1 && errno == ENETUNREACH);
  CHECK(sendto(six, "x", 1, 0, (void *)&pod, sizeof pod) == -1 && errno == ENETUNREACH);
  CHECK(connect(six, (void *)&pod, sizeof pod) == -1 && errno == ENETUNREACH);

  /* A socket connected to loopback sends without an address, and errno stays as it was. */
  CHECK(connect(out, (void *)&here, sizeof here) == 0);
  errno = 77;
  CHECK(send(out, "x", 1, 0) == 1 && read(in, got, 8) == 1 && errno == 77);

  /* libc's own resolver, whose packets no other hook sees. */
  unsigned char answer[512], question[512];
  CHECK(res_query("backend", 1, 1, answer, 512) == -1 && h_errno == TRY_AGAIN);
  CHECK(res_search("backend", 1, 1, answer, 512) == -1 && h_errno == TRY_AGAIN);
  CHECK(res_querydomain("backend", "default", 1, 1, answer, 512) == -1 && h_errno == TRY_AGAIN);
  int size = res_mkquery(0, "backend", 1, 1, NULL, 0, NULL, question, 512);
  CHECK(size > 0 && res_send(question, size, answer, 512) == -1 && errno == ENETDOWN);
  struct __res_state state = {0};
  CHECK(res_ninit(&state) == 0 && res_nquery(&state, "backend", 1, 1, answer, 512) == -1 && h_errno == TRY_AGAIN);
  CHECK(res_nsend(&state, question, size, answer, 512) == -1 && errno == ENETDOWN);
  res_nclose(&state);
  puts("ok");
  return 0;
}
