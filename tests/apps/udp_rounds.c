/* `udp_rounds HOST4 HOST6 PORT`: sends a hundred datagrams in several ways, to the IPv4 address of one host, and to the
   IPv6 address of another from a connected socket, and waits for each echo; says how many came. getpid() marks the
   first round and the last for whoever traces it. */
#define _GNU_SOURCE
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM}, *to, *peer;
  if (count != 4 || getaddrinfo(arguments[1], arguments[3], &hints, &to)) return 64;
  hints.ai_family = AF_INET6;
  if (getaddrinfo(arguments[2], arguments[3], &hints, &peer)) return 64;
  int open = socket(AF_INET, SOCK_DGRAM, 0), connected = socket(AF_INET6, SOCK_DGRAM, 0), echoes = 0;
  char text[100] = "round", got[200];
  struct sockaddr_storage from;
  struct iovec out = {text, sizeof text}, in = {got, sizeof got};
  struct msghdr send_to = {.msg_name = to->ai_addr, .msg_namelen = to->ai_addrlen, .msg_iov = &out, .msg_iovlen = 1};
  connect(connected, peer->ai_addr, peer->ai_addrlen);
  for (int round = -1; round < 25; round++) {
    socklen_t length = sizeof from;
    struct msghdr receive = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &in, .msg_iovlen = 1};
    struct mmsghdr many_out = {send_to, 0}, many_in = {receive, 0};
    /* The first round is not counted: names and ways are asked for. */
    if (round == 0) syscall(SYS_getpid), echoes = 0;
    sendto(open, text, sizeof text, 0, to->ai_addr, to->ai_addrlen);
    echoes += recvfrom(open, got, sizeof got, 0, (void *)&from, &length) == sizeof text;
    sendmsg(open, &send_to, 0);
    echoes += recvmsg(open, &receive, 0) == sizeof text;
    sendmmsg(open, &many_out, 1, 0);
    echoes += recvmmsg(open, &many_in, 1, 0, NULL) == 1;
    send(connected, text, sizeof text, 0);
    struct pollfd ready = {.fd = connected, .events = POLLIN};
    poll(&ready, 1, 10000);
    length = sizeof from;
    echoes += recvfrom(connected, got, sizeof got, 0, (void *)&from, &length) == sizeof text;
  }
  syscall(SYS_getpid);
  printf("%d\n", echoes);
  return 0;
}
