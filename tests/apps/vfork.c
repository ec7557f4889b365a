/* A socket that a child of vfork() connects, while the parent's memory is the child's. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void by_child(const char *service, const char *port) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *to;
  if (getaddrinfo(service, port, &hints, &to)) {
    printf("%s is not known\n", service);
    return;
  }
  int fd = socket(AF_INET, SOCK_STREAM, 0), status;
  errno = 0;
  pid_t child = vfork();
  if (child == 0) _exit(connect(fd, to->ai_addr, to->ai_addrlen) ? errno : 0);
  waitpid(child, &status, 0);
  char data[4] = {0};
  struct sockaddr_storage peer;
  socklen_t length = sizeof peer;
  int named = getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
  int same = named && length == to->ai_addrlen && memcmp(&peer, to->ai_addr, length) == 0;
  if (named) recv(fd, data, 3, MSG_WAITALL);
  printf("%s: child %s, peer %s, \"%s\"\n", service, strerror(WEXITSTATUS(status)), same ? "right" : "none", data);
  close(fd);
  freeaddrinfo(to);
}

int main(void) {
  by_child("talker.default", "25");
  by_child("refuse.default", "80");
  return 0;
}
