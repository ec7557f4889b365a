/* The data path of a connected TCP and of a connected UDP socket, by every call that programs move data with. What is to
 * be compared stands between two calls of getppid. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char data[] = "sixteen bytes...", back[64];
enum { SIZE = 16 };

static void must(long result, const char *what) {
  if (result > 0) return;
  perror(what);
  exit(1);
}

static int connected(const char *service, int kind) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = kind}, *to;
  must(getaddrinfo(service, "7", &hints, &to) == 0, "getaddrinfo");
  int fd = socket(AF_INET, kind, 0);
  must(connect(fd, to->ai_addr, to->ai_addrlen) == 0, "connect");
  freeaddrinfo(to);
  return fd;
}

static void wait_for(int fd) {
  struct pollfd polled = {.fd = fd, .events = POLLIN};
  must(poll(&polled, 1, 20000), "poll");
}

static struct iovec part(char *bytes) { return (struct iovec){bytes, SIZE}; }

/* What both kinds of socket can do. */
static void exchange(int fd) {
  struct iovec out = part(data), in = part(back);
  struct msghdr sent = {.msg_iov = &out, .msg_iovlen = 1}, received = {.msg_iov = &in, .msg_iovlen = 1};
  struct mmsghdr many_out = {.msg_hdr = sent}, many_in = {.msg_hdr = received};
  struct sockaddr_storage from;
  socklen_t length = sizeof from;
  must(write(fd, data, SIZE), "write"), wait_for(fd), must(read(fd, back, SIZE), "read");
  must(send(fd, data, SIZE, 0), "send"), wait_for(fd), must(recv(fd, back, SIZE, 0), "recv");
  must(sendto(fd, data, SIZE, 0, NULL, 0), "sendto"), wait_for(fd);
  must(recvfrom(fd, back, SIZE, 0, NULL, NULL), "recvfrom");
  must(send(fd, data, SIZE, 0), "send"), wait_for(fd);
  must(recvfrom(fd, back, SIZE, 0, (struct sockaddr *)&from, &length), "recvfrom with a name");
  must(sendmsg(fd, &sent, MSG_NOSIGNAL), "sendmsg"), wait_for(fd), must(recvmsg(fd, &received, 0), "recvmsg");
  must(sendmmsg(fd, &many_out, 1, 0), "sendmmsg"), wait_for(fd);
  must(recvmmsg(fd, &many_in, 1, 0, NULL), "recvmmsg");
  must(writev(fd, &out, 1), "writev"), wait_for(fd), must(readv(fd, &in, 1), "readv");
}

static void wait_and_move(int fd, int file, const int *pipe, int poll) {
  struct epoll_event event;
  fd_set set;
  int waiting;
  off_t start = 0;
  must(sendfile(fd, file, &start, SIZE), "sendfile"), must(epoll_wait(poll, &event, 1, 20000), "epoll_wait");
  must(ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 0, "FIONREAD");
  must(splice(fd, NULL, pipe[1], NULL, SIZE, 0), "splice");
  must(splice(pipe[0], NULL, fd, NULL, SIZE, 0), "splice");
  FD_ZERO(&set);
  FD_SET(fd, &set);
  must(select(fd + 1, &set, NULL, NULL, NULL), "select"), must(read(fd, back, SIZE), "read");
  must(fcntl(fd, F_SETFL, O_NONBLOCK) == 0, "fcntl");
  must(recv(fd, back, SIZE, 0) == -1, "recv");
}

int main(void) {
  int stream = connected("tcp-echo.default", SOCK_STREAM), datagrams = connected("udp-echo.default", SOCK_DGRAM);
  int pipes[2], poll = epoll_create1(0), file = memfd_create("data", 0);
  struct epoll_event event = {.events = EPOLLIN};
  must(pipe(pipes) == 0 && write(file, data, SIZE) == SIZE, "pipe");
  must(epoll_ctl(poll, EPOLL_CTL_ADD, stream, &event) == 0, "epoll_ctl");
  /* A first exchange: what is asked once and known from then on is no part of the path. */
  exchange(stream);
  exchange(datagrams);
  syscall(SYS_getppid);
  exchange(stream);
  wait_and_move(stream, file, pipes, poll);
  exchange(datagrams);
  syscall(SYS_getppid);
  puts("moved");
  return 0;
}
