/* getaddrinfo(3) with every kind of argument but localhost, which is the machine's; prints what came, a line an address in the order in which they came. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static void list(int error, struct addrinfo *at) {
  if (error) {
    printf(" EAI %d%s\n", error, error == EAI_SYSTEM ? strerror(errno) : "");
    return;
  }
  puts("");
  for (struct addrinfo *first = at; at; at = at->ai_next) {
    char host[64] = "?", scope[32] = "";
    struct sockaddr_in *v4 = (void *)at->ai_addr;
    struct sockaddr_in6 *v6 = (void *)at->ai_addr;
    if (at->ai_family == AF_INET) inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    if (at->ai_family == AF_INET6) {
      inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
      sprintf(scope, "%%%u", v6->sin6_scope_id);
    }
    printf("  %d %d %d %s%s:%d/%u", at->ai_family, at->ai_socktype, at->ai_protocol, host, scope, ntohs(v4->sin_port),
           at->ai_addrlen);
    if (at->ai_canonname) printf(" %s%s", at == first ? "" : "NOT FIRST ", at->ai_canonname);
    printf(" flags %x\n", at->ai_flags);
  }
}

static void look(const char *node, const char *service, int flags, int family, int type, int protocol) {
  struct addrinfo hints = {.ai_flags = flags, .ai_family = family, .ai_socktype = type, .ai_protocol = protocol};
  struct addrinfo *found = NULL;
  printf("%.70s %s flags %x family %d type %d protocol %d:", node ? node : "NULL", service ? service : "NULL", flags,
         family, type, protocol);
  int error = getaddrinfo(node, service, &hints, &found);
  list(error, found);
  if (!error) freeaddrinfo(found);
}

static void no_hints(const char *node, const char *service) {
  struct addrinfo *found = NULL;
  printf("%s %s without hints:", node ? node : "NULL", service ? service : "NULL");
  int error = getaddrinfo(node, service, NULL, &found);
  list(error, found);
  if (!error) freeaddrinfo(found);
}

int main(void) {
  static const char *names[] = {
      "backend", "backend.default", "backend.default.svc.cluster.local", "backend.default.svc.cluster.local.",
      "BackEnd", "headless", "db-0.db", "alias.test", "external", "outside.test", "v6only", "nowhere", "nowhere.test",
      "nowhere.default.svc.cluster.local.", "text.test", "mail.test", "_under_score.test", "_http._tcp.headless", "10.96.0.10", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "1.2.3", "256.1.1.1",
      "1.2.3.4.5", "fd00::1", "::ffff:10.96.0.10", "fe80::1%lo", "fe80::1%1", "fe80::1%nosuch", "fd00::1%lo", "fe80::1%",
      "::", "0", "", ".", "..", "a..b", ".a", "-a.test", "a b.test", "a_b.test", "*.test", "wild*card", "b\xc3\xbc" "cher.test",
      "b\xfc" "cher.test", "[::1]", "backend:80", "http://backend", "backend.", "test", "default.svc.cluster.local",
  };
  static const int families[] = {AF_UNSPEC, AF_INET, AF_INET6};
  for (unsigned name = 0; name < sizeof names / sizeof *names; name++)
    for (int family = 0; family < 3; family++) look(names[name], "80", 0, families[family], SOCK_STREAM, 0);
  char longest[400];
  memset(longest, 'a', sizeof longest);
  longest[64] = 0;
  look(longest, "80", 0, 0, SOCK_STREAM, 0);
  longest[64] = 'a';
  for (int label = 49; label < 400; label += 50) longest[label] = '.';
  longest[253] = 0;
  look(longest, "80", 0, 0, SOCK_STREAM, 0);
  longest[253] = 'a';
  longest[300] = 0;
  look(longest, "80", 0, 0, SOCK_STREAM, 0);

  static const int flags[] = {
      AI_PASSIVE, AI_CANONNAME, AI_NUMERICHOST, AI_V4MAPPED, AI_V4MAPPED | AI_ALL, AI_ALL, AI_ADDRCONFIG, AI_NUMERICSERV,
      AI_CANONNAME | AI_ADDRCONFIG, AI_V4MAPPED | AI_ADDRCONFIG | AI_CANONNAME, AI_IDN, AI_CANONIDN | AI_CANONNAME,
      AI_CANONNAME | AI_NUMERICHOST, AI_PASSIVE | AI_NUMERICHOST, 0x4000000,
  };
  static const char *flagged[] = {"backend", "alias.test", "external", "v6only", "headless", "10.96.0.10", "127.1", "fd00::1",
                                  "nowhere", "b\xc3\xbc" "cher.test", NULL};
  for (unsigned flag = 0; flag < sizeof flags / sizeof *flags; flag++)
    for (unsigned name = 0; name < sizeof flagged / sizeof *flagged; name++)
      for (int family = 0; family < 3; family++)
        look(flagged[name], "80", flags[flag], families[family], SOCK_DGRAM, 0);

  static const char *services[] = {"http", "domain", "80", "0", "65535", "65536", "-1", "080", "0x50", " 80", "80 ",
                                   "no-such-service", "", "tftp", "syslog", NULL};
  for (unsigned service = 0; service < sizeof services / sizeof *services; service++) {
    for (int type = 0; type <= SOCK_RAW; type++) look("db-0.db", services[service], 0, AF_INET, type, 0);
    look(NULL, services[service], 0, AF_UNSPEC, 0, 0);
    look("db-0.db", services[service], AI_NUMERICSERV, AF_INET, SOCK_STREAM, 0);
    look("nowhere", services[service], 0, AF_INET, SOCK_STREAM, 0);
    look("db-0.db", services[service], 0, AF_INET, 0, IPPROTO_UDP);
  }
  look("backend", "80", 0, AF_UNIX, SOCK_STREAM, 0);
  look("backend", "80", 0, 99, SOCK_STREAM, 0);
  look("backend", "80", 0, 0, 99, 0);
  look("backend", "80", 0, 0, SOCK_STREAM, IPPROTO_UDP);
  look("backend", "80", 0, 0, SOCK_STREAM, IPPROTO_ICMP);
  look("backend", "80", 0, 0, SOCK_SEQPACKET, 0);
  look("backend", "80", 0, 0, 0, IPPROTO_UDPLITE);
  look("backend", "80", 0, 0, 0, IPPROTO_SCTP);
  look("backend", "80", 0, 0, SOCK_RAW, IPPROTO_ICMP);
  look("backend", NULL, 0, AF_INET, 0, 0);
  look(NULL, NULL, 0, 0, 0, 0);
  look(NULL, "80", AI_CANONNAME, 0, SOCK_STREAM, 0);
  no_hints("backend", "80");
  no_hints("backend", NULL);
  no_hints("v6only", "http");
  no_hints("10.96.0.10", "80");
  no_hints("nowhere", "80");
  no_hints(NULL, "80");
  no_hints(NULL, NULL);
  return 0;
}
