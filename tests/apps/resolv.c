/* Asks by the resolver functions (resolver(3)) and prints what came, in words that only depend on what was answered. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char answer[65535];

static int by_text(const void *one, const void *other) { return strcmp(*(char **)one, *(char **)other); }

/* The answers, sorted: nameservers turn them round. Times to live count down and are left out. */
static void say(const char *how, const char *name, int type, int length, int trouble) {
  printf("%s %s %d:", how, name, type);
  if (length < 0) {
    printf(" failed, h_errno %d\n", trouble);
    return;
  }
  HEADER head;
  memcpy(&head, answer, sizeof head);
  int count = ntohs(head.ancount);
  printf(" rcode %d, cut %d, %d answers\n", head.rcode, head.tc, count);
  unsigned char *at = answer + sizeof head, *end = answer + length;
  for (int questions = ntohs(head.qdcount); questions > 0; questions--) at += dn_skipname(at, end) + QFIXEDSZ;
  char *lines[64];
  int used = 0;
  for (; count > 0 && used < 64; count--) {
    char owner[NS_MAXDNAME], *line = malloc(2 * NS_MAXDNAME + 99);
    at += dn_expand(answer, end, at, owner, sizeof owner);
    int of = ns_get16(at), size = ns_get16(at + 8);
    at += RRFIXEDSZ;
    int to = sprintf(line, "  %s %d", owner, of);
    if (of == ns_t_a || of == ns_t_aaaa || of == ns_t_txt || of == ns_t_soa) {
      to += sprintf(line + to, " %d bytes:", size);
      for (int byte = 0; byte < size && byte < 16 && of != ns_t_soa; byte++) to += sprintf(line + to, " %02x", at[byte]);
    } else {
      int skip = of == ns_t_mx ? 2 : of == ns_t_srv ? 6 : 0;
      for (int byte = 0; byte < skip; byte++) to += sprintf(line + to, " %02x", at[byte]);
      if (dn_expand(answer, end, at + skip, owner, sizeof owner) >= 0) sprintf(line + to, " %s", owner);
    }
    at += size;
    lines[used++] = line;
  }
  qsort(lines, used, sizeof *lines, by_text);
  for (int line = 0; line < used; line++) {
    puts(lines[line]);
    free(lines[line]);
  }
}

static void query(const char *name, int type) {
  errno = 77;
  int length = res_query(name, C_IN, type, answer, sizeof answer);
  say("res_query", name, type, length, h_errno);
}

static void search(const char *name, int type) {
  int length = res_search(name, C_IN, type, answer, sizeof answer);
  say("res_search", name, type, length, h_errno);
}

static void settings(const char *whose, res_state state) {
  printf("%s: %d nameservers, ndots %d, retrans %d, retry %d, options %lx\n", whose, state->nscount, state->ndots,
         state->retrans, state->retry, state->options & ~RES_INIT);
  for (int i = 0; i < state->nscount; i++)
    printf("  %s %d\n", inet_ntoa(state->nsaddr_list[i].sin_addr), ntohs(state->nsaddr_list[i].sin_port));
  for (int i = 0; i < MAXDNSRCH && state->dnsrch[i]; i++) printf("  %s\n", state->dnsrch[i]);
}

/* A state of the program's own, with a nameserver of its own choice. */
static void own_state(void) {
  struct __res_state state = {0};
  if (res_ninit(&state)) exit(1);
  settings("own", &state);
  int length = res_nquery(&state, "text.test", C_IN, ns_t_txt, answer, sizeof answer);
  say("res_nquery", "text.test", ns_t_txt, length, state.res_h_errno);
  length = res_nsearch(&state, "backend", C_IN, ns_t_a, answer, sizeof answer);
  say("res_nsearch", "backend", ns_t_a, length, state.res_h_errno);
  length = res_nquerydomain(&state, "backend", "default.svc.cluster.local", C_IN, ns_t_aaaa, answer, sizeof answer);
  say("res_nquerydomain", "backend", ns_t_aaaa, length, state.res_h_errno);
  unsigned char question[512];
  int size = res_nmkquery(&state, QUERY, "mail.test", C_IN, ns_t_mx, NULL, 0, NULL, question, sizeof question);
  length = res_nsend(&state, question, size, answer, sizeof answer);
  say("res_nsend", "mail.test", ns_t_mx, length, state.res_h_errno);
  /* Nobody is there who could answer; the pod's network says so. */
  inet_aton("10.244.255.77", &state.nsaddr_list[0].sin_addr);
  state.nscount = 1;
  state.retrans = state.retry = 1;
  length = res_nquery(&state, "text.test", C_IN, ns_t_txt, answer, sizeof answer);
  say("res_nquery at nobody", "text.test", ns_t_txt, length, state.res_h_errno);
  printf("  %s\n", inet_ntoa(state.nsaddr_list[0].sin_addr));
  inet_aton("10.96.0.10", &state.nsaddr_list[0].sin_addr);
  state.options |= RES_USEVC;
  length = res_nquery(&state, "many.test", C_IN, ns_t_txt, answer, sizeof answer);
  say("res_nquery by TCP", "many.test", ns_t_txt, length, state.res_h_errno);
  state.options = (state.options & ~RES_USEVC) | RES_IGNTC;
  length = res_nquery(&state, "many.test", C_IN, ns_t_txt, answer, sizeof answer);
  say("res_nquery, cut", "many.test", ns_t_txt, length, state.res_h_errno);
  state.options |= RES_USE_EDNS0;
  length = res_nquery(&state, "many.test", C_IN, ns_t_txt, answer, sizeof answer);
  say("res_nquery by EDNS", "many.test", ns_t_txt, length, state.res_h_errno);
  res_nclose(&state);
}

int main(void) {
  /* Before anything has initialised it. */
  query("backend.default.svc.cluster.local", ns_t_a);
  settings("_res", &_res);
  query("backend.default.svc.cluster.local", ns_t_aaaa);
  query("_http._tcp.headless.default.svc.cluster.local", ns_t_srv);
  query("_web._tcp.test", ns_t_srv);
  query("text.test", ns_t_txt);
  query("mail.test", ns_t_mx);
  query("alias.test", ns_t_a);
  query("alias.test", ns_t_cname);
  query("cluster.local", ns_t_soa);
  query("10.0.96.10.in-addr.arpa", ns_t_ptr);
  query("many.test", ns_t_txt);
  query("backend.default.svc.cluster.local", ns_t_txt);
  query("nowhere.test", ns_t_a);
  query("backend", ns_t_a);
  search("backend", ns_t_a);
  search("backend.default", ns_t_aaaa);
  search("nowhere", ns_t_a);
  search("text.test.", ns_t_txt);
  int length = res_querydomain("backend", "default.svc.cluster.local", C_IN, ns_t_a, answer, sizeof answer);
  say("res_querydomain", "backend", ns_t_a, length, h_errno);
  length = res_query("backend.default.svc.cluster.local", C_IN, ns_t_a, answer, 20);
  printf("res_query into 20 bytes: %d\n", length);
  unsigned char question[512];
  int size = res_mkquery(QUERY, "text.test", C_IN, ns_t_txt, NULL, 0, NULL, question, sizeof question);
  length = res_send(question, size, answer, sizeof answer);
  say("res_send", "text.test", ns_t_txt, length, h_errno);
  own_state();
  _res.options |= RES_USE_EDNS0;
  res_init();
  settings("_res again", &_res);
  search("backend", ns_t_a);
  return 0;
}
