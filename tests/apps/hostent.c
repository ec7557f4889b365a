/* gethostbyname(3) and its kin, and getnameinfo(3); prints what came. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static void say(const struct hostent *host, int trouble) {
  if (!host) {
    printf(" h_errno %d\n", trouble);
    return;
  }
  printf(" %s family %d length %d\n", host->h_name, host->h_addrtype, host->h_length);
  for (char **alias = host->h_aliases; *alias; alias++) printf("  alias %s\n", *alias);
  for (char **at = host->h_addr_list; *at; at++) {
    char text[64];
    printf("  %s\n", inet_ntop(host->h_addrtype, *at, text, sizeof text));
  }
}

static void by_name(const char *name) {
  static const int families[] = {AF_INET, AF_INET6};
  printf("gethostbyname %s:", name);
  struct hostent *shared = gethostbyname(name);
  say(shared, h_errno);
  for (int family = 0; family < 2; family++) {
    printf("gethostbyname2 %s %d:", name, families[family]);
    shared = gethostbyname2(name, families[family]);
    say(shared, h_errno);
    struct hostent room, *found = NULL;
    char text[2048];
    int trouble = 0;
    int error = gethostbyname2_r(name, families[family], &room, text, sizeof text, &found, &trouble);
    printf("gethostbyname2_r %s %d: %d", name, families[family], error);
    say(found, trouble);
    for (size_t size = 1; size < sizeof text; size++) {
      error = gethostbyname2_r(name, families[family], &room, text, size, &found, &trouble);
      if (error != ERANGE) break;
      if (found || trouble != NETDB_INTERNAL) printf("ERANGE with a result\n");
    }
    printf("  grown: %d", error);
    say(found, trouble);
  }
}

static void by_address(const char *text) {
  unsigned char address[16];
  int family = strchr(text, ':') ? AF_INET6 : AF_INET, length = family == AF_INET ? 4 : 16;
  inet_pton(family, text, address);
  printf("gethostbyaddr %s:", text);
  struct hostent *shared = gethostbyaddr(address, length, family);
  say(shared, h_errno);
  struct hostent room, *found = NULL;
  char space[2048];
  int trouble = 0;
  int error = gethostbyaddr_r(address, length, family, &room, space, sizeof space, &found, &trouble);
  printf("gethostbyaddr_r %s: %d", text, error);
  say(found, trouble);
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(53)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
  memcpy(family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr, address, length);
  struct sockaddr *as = family == AF_INET ? (void *)&v4 : (void *)&v6;
  socklen_t size = family == AF_INET ? sizeof v4 : sizeof v6;
  static const int flags[] = {0, NI_NAMEREQD, NI_NUMERICHOST, NI_NOFQDN, NI_DGRAM, NI_NUMERICSERV, NI_IDN,
                              NI_NAMEREQD | NI_NUMERICHOST, 0x1000};
  for (unsigned flag = 0; flag < sizeof flags / sizeof *flags; flag++) {
    char host[256] = "-", service[64] = "-";
    error = getnameinfo(as, size, host, sizeof host, service, sizeof service, flags[flag]);
    printf("  getnameinfo %x: %d %s %s\n", flags[flag], error, error ? "-" : host, error ? "-" : service);
  }
  for (socklen_t room = 0; room < 64; room++) {
    char host[64] = "-";
    error = getnameinfo(as, size, host, room, NULL, 0, 0);
    if (error != EAI_OVERFLOW) printf("  into %u bytes: %d %s\n", room, error, error ? "-" : host);
  }
  printf("  short: %d\n", getnameinfo(as, 3, space, sizeof space, NULL, 0, 0));
}

int main(void) {
  static const char *names[] = {
      "backend", "backend.default", "backend.default.svc.cluster.local.", "alias.test", "external", "headless", "db-0.db",
      "v6only", "outside.test", "nowhere", "nowhere.test", "text.test", "_under_score.test", "10.96.0.10", "127.1", "0x7f.1", "1.2.3.4.5",
      "fd00::1", "::ffff:1.2.3.4", "fe80::1%lo", "", ".", "a..b", "a b", "BackEnd",
  };
  static const char *addresses[] = {"10.96.0.10", "203.0.113.77", "fd00:10:96::a", "2001:db8::77", "::ffff:10.96.0.10"};
  for (unsigned name = 0; name < sizeof names / sizeof *names; name++) by_name(names[name]);
  for (unsigned address = 0; address < sizeof addresses / sizeof *addresses; address++) by_address(addresses[address]);
  return 0;
}
