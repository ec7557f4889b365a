/* Looks names up in every form of the C library and frees what it gets; run plain and under valgrind.
   The launcher's script: backend is 10.96.0.7 and fd00::7 with a canonical name, v4only is 10.96.0.8, nothing is
   no name, later fails with EAI_AGAIN, many is 100 addresses; 10.96.0.7 is backend.default. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define CHECK(what)                                               \
  do {                                                            \
    if (!(what)) {                                                \
      printf("line %d: %s\n", __LINE__, #what);                   \
      exit(1);                                                    \
    }                                                             \
  } while (0)

static char text[8192];

/* The list as text: "address:port/type ...", and the error where there is none. */
static const char *look(const char *node, const char *service, int flags, int family, int type) {
  struct addrinfo hints = {.ai_flags = flags, .ai_family = family, .ai_socktype = type}, *list = NULL;
  errno = 77;
  int error = getaddrinfo(node, service, &hints, &list);
  text[0] = 0;
  if (error) {
    snprintf(text, sizeof text, "error %d", error);
    return text;
  }
  CHECK(errno == 77);
  for (struct addrinfo *at = list; at; at = at->ai_next) {
    char host[64], port[8], one[160];
    CHECK(getnameinfo(at->ai_addr, at->ai_addrlen, host, 64, port, 8, NI_NUMERICHOST | NI_NUMERICSERV) == 0);
    snprintf(one, sizeof one, "%s%s:%s/%d", at == list ? "" : " ", host, port, at->ai_socktype);
    strncat(text, one, sizeof text - strlen(text) - 1);
    if (at->ai_canonname) {
      CHECK(at == list);
      strcat(strcat(text, "="), at->ai_canonname);
    }
  }
  freeaddrinfo(list);
  return text;
}

static void is(int line, const char *got, const char *expected) {
  if (strcmp(got, expected)) {
    printf("line %d: got \"%s\", expected \"%s\"\n", line, got, expected);
    exit(1);
  }
}
#define IS(got, expected) is(__LINE__, got, expected)

static void addrinfo(void) {
  struct addrinfo *list;
  IS(look("backend", "80", 0, 0, SOCK_STREAM), "10.96.0.7:80/1 fd00::7:80/1");
  IS(look("backend", "80", 0, AF_INET, 0), "10.96.0.7:80/1 10.96.0.7:80/2 10.96.0.7:80/3");
  IS(look("backend", "http", 0, AF_INET6, SOCK_STREAM), "fd00::7:80/1");
  IS(look("backend", NULL, AI_CANONNAME, 0, SOCK_DGRAM), "10.96.0.7:0/2=backend.default.svc fd00::7:0/2");
  IS(look("v4only", NULL, AI_CANONNAME, 0, SOCK_DGRAM), "10.96.0.8:0/2=v4only");
  IS(look("backend", "80", AI_ADDRCONFIG, 0, SOCK_STREAM), "10.96.0.7:80/1 fd00::7:80/1");
  IS(look("v4only", "80", 0, AF_INET6, SOCK_STREAM), "error -5");
  IS(look("v4only", "80", AI_V4MAPPED, AF_INET6, SOCK_STREAM), "::ffff:10.96.0.8:80/1");
  IS(look("backend", "80", AI_V4MAPPED, AF_INET6, SOCK_STREAM), "fd00::7:80/1");
  IS(look("backend", "80", AI_V4MAPPED | AI_ALL, AF_INET6, SOCK_STREAM), "::ffff:10.96.0.7:80/1 fd00::7:80/1");
  IS(look("_srv._tcp.backend", "80", 0, 0, SOCK_STREAM), "10.96.0.9:80/1");
  CHECK(getaddrinfo("backend", NULL, NULL, &list) == 0);
  freeaddrinfo(list);
  int count = 1;
  for (char *at = (char *)look("many", "80", 0, 0, SOCK_STREAM); *at; at++) count += *at == ' ';
  CHECK(count == 100);

  IS(look("nothing", "80", 0, 0, SOCK_STREAM), "error -2");
  IS(look("later", "80", 0, 0, SOCK_STREAM), "error -3");
  IS(look("", "80", 0, 0, SOCK_STREAM), "error -2");
  char longest[400] = {0};
  memset(longest, 'a', 300);
  IS(look(longest, "80", 0, 0, SOCK_STREAM), "error -2");

  /* libc's own to say. */
  IS(look("10.1.2.3", "80", 0, 0, SOCK_STREAM), "10.1.2.3:80/1");
  IS(look("10.1.2.3", "80", AI_CANONNAME, 0, SOCK_STREAM), "10.1.2.3:80/1=10.1.2.3");
  IS(look("10.1.2.3", "80", 0, AF_INET6, SOCK_STREAM), "error -9");
  IS(look("fd00::1", "80", 0, 0, SOCK_STREAM), "fd00::1:80/1");
  IS(look("fe80::1%lo", "80", 0, 0, SOCK_STREAM), "fe80::1%lo:80/1");
  IS(look(NULL, "80", 0, AF_INET, SOCK_STREAM), "127.0.0.1:80/1");
  IS(look(NULL, "80", AI_PASSIVE, AF_INET, SOCK_STREAM), "0.0.0.0:80/1");
  IS(look("backend", "80", AI_NUMERICHOST, 0, SOCK_STREAM), "error -2");
  IS(look("backend", "no-such-service", 0, 0, SOCK_STREAM), "error -8");
  IS(look("backend", "80", 0, AF_UNIX, SOCK_STREAM), "error -6");
  IS(look("backend", "80", 0, 0, 99), "error -7");
  IS(look("backend", "80", 0x40000000, 0, SOCK_STREAM), "error -1");
  CHECK(strstr(look("localhost", "80", 0, AF_INET, SOCK_STREAM), "127.0.0.1:80/1"));
  IS(look("any.localhost", "80", 0, 0, SOCK_STREAM), "::1:80/1 127.0.0.1:80/1");
}

static void hostent(void) {
  struct hostent *got = gethostbyname("backend"), entry, *found;
  CHECK(got && !strcmp(got->h_name, "backend.default.svc") && got->h_length == 4 && !got->h_aliases[0]);
  CHECK(!memcmp(got->h_addr_list[0], "\x0a\x60\x00\x07", 4) && !got->h_addr_list[1]);
  got = gethostbyname2("backend", AF_INET6);
  CHECK(got && got->h_addrtype == AF_INET6 && got->h_length == 16 && (unsigned char)got->h_addr_list[0][0] == 0xfd);
  CHECK(!gethostbyname("nothing") && h_errno == HOST_NOT_FOUND);
  CHECK(!gethostbyname("later") && h_errno == TRY_AGAIN);
  CHECK(!gethostbyname2("v4only", AF_INET6) && h_errno == NO_DATA);
  got = gethostbyname("10.1.2.3");
  CHECK(got && !strcmp(got->h_name, "10.1.2.3"));
  got = gethostbyname("localhost");
  CHECK(got && got->h_addr_list[0][0] == 127);

  /* As programs do: a buffer that grows until it is enough. */
  int error, trouble = 0;
  size_t size = 1;
  char *room = malloc(size);
  while ((error = gethostbyname_r("many", &entry, room, size, &found, &trouble)) == ERANGE) {
    CHECK(trouble == NETDB_INTERNAL && !found && errno == ERANGE);
    room = realloc(room, ++size);
  }
  CHECK(!error && found == &entry && found->h_addr_list[99] && !found->h_addr_list[100]);
  free(room);
  char fixed[512];
  CHECK(gethostbyname_r("nothing", &entry, fixed, 512, &found, &trouble) == 0 && !found && trouble == HOST_NOT_FOUND);
  CHECK(gethostbyname_r("later", &entry, fixed, 512, &found, &trouble) == EAGAIN && !found && trouble == TRY_AGAIN);
  CHECK(gethostbyname2_r("backend", AF_INET6, &entry, fixed, 512, &found, &trouble) == 0 && found);

  struct in_addr pod, here;
  inet_aton("10.96.0.7", &pod);
  inet_aton("127.0.0.1", &here);
  got = gethostbyaddr(&pod, 4, AF_INET);
  CHECK(got && !strcmp(got->h_name, "backend.default") && !memcmp(got->h_addr_list[0], &pod, 4));
  CHECK(gethostbyaddr_r(&pod, 4, AF_INET, &entry, fixed, 512, &found, &trouble) == 0 && found == &entry);
  CHECK(gethostbyaddr_r(&pod, 4, AF_INET, &entry, fixed, 8, &found, &trouble) == ERANGE && !found);
  got = gethostbyaddr(&here, 4, AF_INET);
  CHECK(got && !strncmp(got->h_name, "localhost", 9));
  inet_aton("10.96.0.99", &pod);
  CHECK(!gethostbyaddr(&pod, 4, AF_INET) && h_errno == HOST_NOT_FOUND);
}

static const char *name_of(const char *ip, int flags, socklen_t size) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
  char host[256], port[32];
  inet_aton(ip, &address.sin_addr);
  int error = getnameinfo((void *)&address, sizeof address, host, size, port, sizeof port, flags);
  if (error) snprintf(text, sizeof text, "error %d", error);
  else snprintf(text, sizeof text, "%s %s", host, port);
  return text;
}

static void nameinfo(void) {
  IS(name_of("10.96.0.7", 0, 256), "backend.default http");
  IS(name_of("10.96.0.7", NI_NUMERICSERV | NI_NAMEREQD, 256), "backend.default 80");
  IS(name_of("10.96.0.7", NI_NUMERICHOST, 256), "10.96.0.7 http");
  IS(name_of("10.96.0.7", 0, 15), "error -12");
  IS(name_of("10.96.0.7", 0, 16), "backend.default http");
  IS(name_of("10.96.0.99", 0, 256), "10.96.0.99 http");
  IS(name_of("10.96.0.99", 0, 10), "error -12");
  IS(name_of("10.96.0.99", NI_NAMEREQD, 256), "error -2");
  IS(name_of("10.96.0.98", 0, 256), "error -3");
  IS(name_of("10.96.0.7", 0x4000, 256), "error -1");
  CHECK(!strncmp(name_of("127.0.0.1", NI_NUMERICSERV, 256), "localhost", 9));
}

int main(void) {
  addrinfo();
  hostent();
  nameinfo();
  puts("ok");
  return 0;
}
