/* Connects to 10.96.0.7:80 from threads while the main thread forks children that connect too. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int one(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
  char got = 0;
  inet_pton(AF_INET, "10.96.0.7", &to.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  int ok = connect(fd, (void *)&to, sizeof to) == 0 && write(fd, "x", 1) == 1 && read(fd, &got, 1) == 1;
  close(fd);
  return ok && got == 'x';
}

static void *many(void *failed) {
  for (int i = 0; i < 50; i++)
    if (!one()) *(int *)failed = 1;
  return NULL;
}

int main(void) {
  pthread_t threads[4];
  int failed[4] = {0}, bad = 0;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, many, &failed[i]);
  for (int i = 0; i < 30; i++) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) _exit(one() ? 0 : 1);
    waitpid(child, &status, 0);
    bad |= status;
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    bad |= failed[i];
  }
  puts(bad ? "failed" : "ok");
  return bad != 0;
}
