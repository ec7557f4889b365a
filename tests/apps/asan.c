/* asan.c [GUILTY]: looks the pod up, frees what it got, talks to it; with an argument it then writes past a block. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *found;
  if (getaddrinfo("backend", "80", &hints, &found)) return 3;
  int fd = socket(found->ai_family, found->ai_socktype, 0);
  char got[3] = {0};
  int ok = connect(fd, found->ai_addr, found->ai_addrlen) == 0 && write(fd, "hi", 2) == 2 && read(fd, got, 2) == 2;
  puts(ok ? got : "not reached");
  fflush(stdout);
  freeaddrinfo(found);
  close(fd);
  FILE *shell = popen("echo from the shell", "r");
  char line[64];
  if (shell && fgets(line, sizeof line, shell)) fputs(line, stdout);
  if (shell) pclose(shell);
  fflush(stdout);
  if (count > 1) {
    volatile char *block = malloc(10);
    block[9 + count - 1] = arguments[1][0];
    free((void *)block);
  }
  return 0;
}
