/* opened.c HOW LIBRARY: loads the library in that way and says what its connect to 10.96.0.7:80 gives. The library is
   this same source, built with -DLIBRARY; it takes its connect from where SYMBOL says. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef LIBRARY
int reach(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
  char got = 0;
  inet_pton(AF_INET, "10.96.0.7", &to.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  int (*by)(int, const struct sockaddr *, socklen_t) = connect;
  const char *symbol = getenv("SYMBOL");
  if (symbol && !strcmp(symbol, "handle")) by = dlsym(dlopen("libc.so.6", RTLD_LAZY), "connect");
  if (symbol && !strcmp(symbol, "first")) by = dlsym(RTLD_DEFAULT, "connect");
  if (symbol && !strcmp(symbol, "main")) by = dlsym(dlopen(NULL, RTLD_LAZY), "connect");
  int error = by(fd, (void *)&to, sizeof to) ? errno : 0;
  if (!error && (write(fd, "x", 1) != 1 || read(fd, &got, 1) != 1 || got != 'x')) error = EPROTO;
  close(fd);
  return error;
}
#else
int main(int count, char **arguments) {
  if (count < 3) return 2;
  const char *how = arguments[1], *library = arguments[2];
  void *handle = NULL;
  if (!strcmp(how, "now")) handle = dlopen(library, RTLD_NOW);
  if (!strcmp(how, "local")) handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
  if (!strcmp(how, "deep")) handle = dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!strcmp(how, "base")) handle = dlmopen(LM_ID_BASE, library, RTLD_NOW | RTLD_DEEPBIND);
  if (!strcmp(how, "new")) handle = dlmopen(LM_ID_NEWLM, library, RTLD_NOW);
  int (*reach)(void) = handle ? (int (*)(void))dlsym(handle, "reach") : NULL;
  if (!reach) return puts(dlerror()), 1;
  /* What is no hook stays as it is, and an error that is none is not told. */
  void *libc = dlopen("libc.so.6", RTLD_LAZY);
  if (dlsym(libc, "qsort") != (void *)qsort || dlerror()) return puts("another qsort"), 1;
  if (dlsym(libc, "no such function") || !dlerror()) return puts("no error"), 1;
  int error = reach();
  puts(error ? strerror(error) : "reached");
  return 0;
}
#endif
