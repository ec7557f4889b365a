/* Reads and writes of an io_uring on a connected socket. System calls as they are: no library for them is needed. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct io_uring_params params;
static int ring;
static char *submissions, *completions;
static struct io_uring_sqe *entries;

static unsigned *at(char *base, unsigned offset) { return (unsigned *)(base + offset); }

static void must(int good, const char *what) {
  if (good) return;
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static char *map(size_t size, off_t what) {
  void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
  must(start != MAP_FAILED, "mmap");
  return start;
}

static void open_ring(void) {
  ring = syscall(SYS_io_uring_setup, 8, &params);
  must(ring >= 0, "io_uring_setup");
  submissions = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
  completions = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
  entries = (struct io_uring_sqe *)map(params.sq_entries * sizeof *entries, IORING_OFF_SQES);
}

/* One operation, and its result. */
static int carry_out(int operation, int fd, void *data, unsigned size) {
  unsigned tail = *at(submissions, params.sq_off.tail), index = tail & *at(submissions, params.sq_off.ring_mask);
  entries[index] = (struct io_uring_sqe){.opcode = operation, .fd = fd, .addr = (unsigned long)data, .len = size};
  at(submissions, params.sq_off.array)[index] = index;
  __atomic_store_n(at(submissions, params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
  must(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "io_uring_enter");
  unsigned head = *at(completions, params.cq_off.head);
  struct io_uring_cqe *done = (struct io_uring_cqe *)(completions + params.cq_off.cqes);
  int result = done[head & *at(completions, params.cq_off.ring_mask)].res;
  __atomic_store_n(at(completions, params.cq_off.head), head + 1, __ATOMIC_RELEASE);
  return result;
}

static void by_ring(int family) {
  struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *to;
  must(getaddrinfo("tcp-echo.default", "7", &hints, &to) == 0, "getaddrinfo");
  int fd = socket(family, SOCK_STREAM, 0);
  must(connect(fd, to->ai_addr, to->ai_addrlen) == 0, "connect");
  char data[4096];
  for (int i = 0; i < 100; i++) {
    memset(data, i, sizeof data);
    int written = carry_out(i % 2 ? IORING_OP_WRITE : IORING_OP_SEND, fd, data, sizeof data), back = 0;
    while (back < written) {
      char piece[4096];
      int got = carry_out(i % 2 ? IORING_OP_RECV : IORING_OP_READ, fd, piece, sizeof piece);
      if (got <= 0 || memcmp(piece, data, got)) {
        printf("round %d: %d came back\n", i, got);
        exit(1);
      }
      back += got;
    }
  }
  printf("IPv%d: 100 rounds, then %d", family == AF_INET ? 4 : 6, carry_out(IORING_OP_SHUTDOWN, fd, NULL, SHUT_WR));
  printf(" and %d\n", carry_out(IORING_OP_READ, fd, data, sizeof data));
  close(fd);
  freeaddrinfo(to);
}

int main(void) {
  open_ring();
  by_ring(AF_INET);
  by_ring(AF_INET6);
  return 0;
}
