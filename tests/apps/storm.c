/* Connects 200 times while a timer's signal interrupts it a thousand times a second, to a service that accepts and to one
 * that refuses in turn: each result must be the one that the service gave, interrupted or not. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void on_signal(int number) {
  (void)number;
  signals++;
}

static int look_up(const char *name, struct addrinfo **found) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
  return getaddrinfo(name, "80", &hints, found);
}

/* As POSIX has it: an interrupted connect() goes on, and poll() and SO_ERROR tell its end. */
static int connect_through_signals(int fd, const struct addrinfo *to) {
  if (connect(fd, to->ai_addr, to->ai_addrlen) == 0) return 0;
  if (errno != EINTR) return errno;
  struct pollfd polled = {.fd = fd, .events = POLLOUT};
  while (poll(&polled, 1, 20000) != 1)
    if (errno != EINTR) return ETIME;
  int error;
  socklen_t length = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) ? errno : error;
}

static int is_answered(int fd) {
  static const char request[] = "GET / HTTP/1.0\r\nHost: backend\r\n\r\n";
  char answer[13] = {0};
  size_t got = 0;
  if (send(fd, request, sizeof request - 1, 0) != sizeof request - 1) return 0;
  while (got < 12) {
    ssize_t read = recv(fd, answer + got, 12 - got, 0);
    if (read > 0)
      got += read;
    else if (read == 0 || errno != EINTR)
      return 0;
  }
  return strcmp(answer, "HTTP/1.0 200") == 0;
}

int main(void) {
  struct sigaction action = {.sa_handler = on_signal}; /* without SA_RESTART */
  sigaction(SIGALRM, &action, NULL);
  struct itimerval every = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &every, NULL);
  int accepted = 0, answered = 0, refused = 0, looked_up = 0;
  for (int i = 0; i < 200; i++) {
    struct addrinfo *to;
    int error = look_up(i % 2 ? "refuse.default" : "backend.default", &to);
    if (error) {
      printf("%d: %s\n", i, gai_strerror(error));
      continue;
    }
    looked_up++;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    error = connect_through_signals(fd, to);
    accepted += i % 2 == 0 && error == 0;
    refused += i % 2 == 1 && error == ECONNREFUSED;
    if (error != (i % 2 ? ECONNREFUSED : 0)) printf("%d: %s\n", i, strerror(error));
    if (i % 20 == 0) answered += is_answered(fd);
    freeaddrinfo(to);
    close(fd);
  }
  printf("looked up %d, accepted %d, answered %d, refused %d, %s signals\n", looked_up, accepted, answered, refused,
         signals > 100 ? "many" : "few");
  return 0;
}
