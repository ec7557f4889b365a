/* exec.c VARIANT FILE: starts FILE (of this program's own kind) by that function of libc, with an environment that was
   emptied first. exec.c small VARIANT FILE: the same on the smallest stack that a thread can have. exec.c show ...: says
   what it was started with, and which program TP_PROGRAM leads to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void show(int count, char **arguments) {
  for (int i = 1; i < count; i++) printf("%s%s", i > 1 ? " " : "", arguments[i]);
  for (char **at = environ; *at; at++) printf("\n%s", *at);
  char meant[PATH_MAX];
  if (getenv("TP_PROGRAM") && realpath(getenv("TP_PROGRAM"), meant)) printf("\nmeant=%s", meant);
  printf("\n");
}

static int wait_for(pid_t child) {
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static int start(char **arguments) {
  const char *variant = arguments[1];
  char *file = arguments[2], *child[] = {"exec", "show", "one", "two", NULL}, *wiped[] = {"A=1", NULL};
  char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
  pid_t pid;
  int error;
  char *path = strdup(getenv("PATH"));
  clearenv();
  putenv("A=1");
#define IS(name) (!strcmp(variant, name))
  if (IS("execve")) execve(file, child, wiped);
  if (IS("execve null")) execve(file, child, NULL);
  if (IS("execve proc")) {
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", open(file, O_RDONLY | O_CLOEXEC));
    execve(own, child, wiped);
  }
  if (IS("execv")) execv(file, child);
  if (IS("execveat")) execveat(AT_FDCWD, file, child, wiped, 0);
  if (IS("execveat at")) execveat(open("/", O_PATH | O_CLOEXEC), file + 1, child, wiped, 0);
  if (IS("execveat fd")) execveat(open(file, O_PATH | O_CLOEXEC), "", child, wiped, AT_EMPTY_PATH);
  if (IS("fexecve")) fexecve(open(file, O_RDONLY | O_CLOEXEC), child, wiped);
  if (IS("execl")) execl(file, "exec", "show", "one", "two", NULL);
  if (IS("execl short")) execl(file, "exec", "show", NULL);
  if (IS("execl long"))
    execl(file, "exec", "show", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", NULL);
  if (IS("execle")) execle(file, "exec", "show", "one", "two", NULL, wiped);
  if (IS("execle long"))
    execle(file, "exec", "show", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", NULL, wiped);
  if (IS("vfork")) {
    if ((pid = vfork()) == 0) {
      execve(file, child, wiped);
      _exit(errno);
    }
    return wait_for(pid);
  }
  if (IS("posix_spawn")) {
    error = posix_spawn(&pid, file, NULL, NULL, child, wiped);
    return error ? error : wait_for(pid);
  }
  if (IS("posix_spawn chdir") || IS("posix_spawn fchdir")) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    char *folder = strndup(file, base - file), relative[256];
    snprintf(relative, sizeof relative, "./%s", base);
    posix_spawn_file_actions_addopen(&actions, 9, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, IS("posix_spawn chdir") ? folder : "/");
    if (IS("posix_spawn fchdir")) posix_spawn_file_actions_addfchdir_np(&actions, open(folder, O_RDONLY | O_CLOEXEC));
    error = posix_spawn(&pid, relative, &actions, NULL, child, wiped);
    return error ? error : wait_for(pid);
  }
  if (IS("pidfd_spawn")) {
    int pidfd = -1, (*spawn)(int *, const char *, void *, void *, char *const *, char *const *) =
        dlsym(RTLD_DEFAULT, "pidfd_spawn");
    siginfo_t ended = {0};
    if ((error = spawn(&pidfd, file, NULL, NULL, child, wiped))) return error;
    return waitid(P_PIDFD, pidfd, &ended, WEXITED) ? 98 : ended.si_status;
  }
  if (IS("execve full")) {
    struct rlimit none = {3, 3};
    setrlimit(RLIMIT_NOFILE, &none);
    execve(file, child, wiped);
  }
  setenv("PATH", path, 1);
  if (IS("execvp")) execvp(base, child);
  if (IS("execvpe")) execvpe(base, child, wiped);
  if (IS("execlp")) execlp(base, "exec", "show", "one", "two", NULL);
  if (IS("posix_spawnp")) {
    error = posix_spawnp(&pid, base, NULL, NULL, child, wiped);
    return error ? error : wait_for(pid);
  }
  return errno;
}

static void *start_small(void *arguments) { return (void *)(long)start(arguments); }

int main(int count, char **arguments) {
  if (!strcmp(arguments[1], "show")) return show(count, arguments), 0;
  if (strcmp(arguments[1], "small")) return start(arguments);
  pthread_t thread;
  pthread_attr_t small;
  void *result;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
  if (pthread_create(&thread, &small, start_small, arguments + 1)) return 97;
  pthread_join(thread, &result);
  return (int)(long)result;
}
