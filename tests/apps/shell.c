/* shell.c EMPTIED CALL COMMAND: a program that emptied its environment in that way has libc start a shell in that way;
   what the command wrote is shown, and what the call gave. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

extern FILE *_IO_popen(const char *, const char *);

static void empty(const char *how) {
  static char *own[] = {"A=1", NULL};
  if (!strcmp(how, "clearenv")) clearenv();
  if (!strcmp(how, "null")) environ = NULL;
  if (!strcmp(how, "in place")) environ[0] = NULL;
  if (!strcmp(how, "own array")) environ = own;
  if (!strcmp(how, "unsetenv")) unsetenv("LD_PRELOAD"), unsetenv("TP_SOCKET");
  if (!strcmp(how, "own preload")) setenv("LD_PRELOAD", "libm.so.6", 1);
  if (!strcmp(how, "another socket")) setenv("TP_SOCKET", "/nowhere", 1);
}

static void copy(FILE *pipe) {
  char line[512];
  if (!pipe) {
    printf("none: %s\n", strerror(errno));
    return;
  }
  while (fgets(line, sizeof line, pipe)) fputs(line, stdout);
  printf("status %d\n", pclose(pipe));
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  char *call = arguments[2], *command = arguments[3];
  setvbuf(stdout, NULL, _IONBF, 0);
  empty(arguments[1]);
  if (!strcmp(call, "system")) printf("status %d\n", system(command));
  if (!strcmp(call, "is there a shell")) printf("%d\n", system(NULL) != 0);
  if (!strcmp(call, "popen")) copy(popen(command, "r"));
  if (!strcmp(call, "_IO_popen")) copy(_IO_popen(command, "re"));
  if (!strcmp(call, "wordexp")) {
    char words[512];
    wordexp_t found;
    snprintf(words, sizeof words, "$(%s)", command);
    int error = wordexp(words, &found, 0);
    for (size_t i = 0; !error && i < found.we_wordc; i++) printf("%s%s", i ? " " : "", found.we_wordv[i]);
    printf("\nstatus %d\n", error);
  }
  if (!strcmp(call, "words")) {
    wordexp_t found;
    int error = wordexp(command, &found, 0);
    printf("%s\nstatus %d\n", error ? "" : found.we_wordv[0], error);
  }
  return 0;
}
