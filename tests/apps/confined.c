/* confined.c WHAT PROGRAM ARGUMENTS: a machine, or a container, that does not allow something, by a seccomp filter.
     namespaces: unshare, setns and mount, as in a container    netfilter: the sockets that nf_tables are set up by
     seccomp: seccomp itself                                    getfd: pidfd_getfd
     listener: nothing, but there is a filter with a listener already */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(place) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, place))
#define IF(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
#define ANSWER(what) BPF_STMT(BPF_RET | BPF_K, what)
#define FAIL(errno) ANSWER(SECCOMP_RET_ERRNO | (errno))

static int put(struct sock_filter *filter, unsigned short length, unsigned flags) {
  struct sock_fprog program = {length, filter};
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
#define PUT(filter, flags) put(filter, sizeof filter / sizeof *filter, flags)

static int without(long first, long second, long third) {
  struct sock_filter filter[] = {
      LOAD(nr),      IF(first, 2, 0), IF(second, 1, 0), IF(third, 0, 1),
      FAIL(EPERM), ANSWER(SECCOMP_RET_ALLOW),
  };
  return PUT(filter, 0);
}

static int without_netfilter(void) {
  struct sock_filter filter[] = {
      LOAD(nr),      IF(SYS_socket, 0, 4),         LOAD(args[0]),         IF(AF_NETLINK, 0, 2),
      LOAD(args[2]), IF(NETLINK_NETFILTER, 1, 0), ANSWER(SECCOMP_RET_ALLOW), FAIL(EPROTONOSUPPORT),
  };
  return PUT(filter, 0);
}

/* Of a call that nobody makes. */
static int with_listener(void) {
  struct sock_filter filter[] = {
      LOAD(nr), IF(SYS_lookup_dcookie, 0, 1), ANSWER(SECCOMP_RET_USER_NOTIF), ANSWER(SECCOMP_RET_ALLOW)};
  int listener = PUT(filter, SECCOMP_FILTER_FLAG_NEW_LISTENER);
  return listener < 0 ? listener : fcntl(listener, F_SETFD, 0);
}

int main(int count, char **arguments) {
  if (count < 3) return 2;
  const char *what = arguments[1];
  int done = -1;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return perror("no_new_privs"), 2;
  if (!strcmp(what, "namespaces")) done = without(SYS_unshare, SYS_setns, SYS_mount);
  if (!strcmp(what, "netfilter")) done = without_netfilter();
  if (!strcmp(what, "seccomp")) done = without(SYS_seccomp, SYS_seccomp, SYS_seccomp);
  if (!strcmp(what, "getfd")) done = without(SYS_pidfd_getfd, SYS_pidfd_getfd, SYS_pidfd_getfd);
  if (!strcmp(what, "listener")) done = with_listener();
  if (done) return perror(what), 2;
  execvp(arguments[2], arguments + 2);
  return perror(arguments[2]), 127;
}
