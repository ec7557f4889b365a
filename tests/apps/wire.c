/* Writes one message of each fixed kind to standard output, as tp_wire.h has them. */
#include "tp_wire.h"
#include <stdio.h>
#include <string.h>

static const struct tp_address v4 = {.family = 4, .port = 80, .ip = {10, 96, 0, 7}};
static const struct tp_address v6 = {.family = 6, .port = 443, .scope = 3, .ip = {0xfd, [15] = 9}};

static void message(uint16_t kind, const void *body, uint16_t length) {
  struct tp_header header = {TP_MAGIC, kind, length};
  fwrite(&header, sizeof header, 1, stdout);
  fwrite(body, length, 1, stdout);
}

int main(void) {
  struct tp_connect connect = {.cookie = 7, .asked = v6, .v6_socket = 1};
  struct tp_cookie cookie = {9};
  int32_t refused = 111, unknown = -2;
  struct { uint8_t seconds[4], length, name[4], aliases[2], alias[6]; struct tp_address list[2]; } addresses = {
      {0}, 4, "name", {0}, "alias", {v4, v6}};
  memcpy(addresses.seconds, &(uint32_t){30}, 4);
  memcpy(addresses.aliases, &(uint16_t){6}, 2);
  message(TP_CONNECT, &connect, offsetof(struct tp_connect, v6_socket) + 1);
  message(TP_PEER, &cookie, sizeof cookie);
  message(TP_WHY, &cookie, sizeof cookie);
  message(TP_LOOKUP, "\7backend", 8);
  message(TP_REVERSE, &v4, sizeof v4);
  message(TP_EXEC, "", 0);
  struct tp_opened opened = {.cookie = 8, .asked = v6};
  message(TP_OPENED, &opened, sizeof opened);
  message(TP_RESOLVER, "", 0);
  message(TP_NAMESERVER, &v4, sizeof v4);
  message(TP_LOCAL, "\1", 1);
  struct tp_connected connected = {.cookie = 3, .asked = v4, .fd = 5};
  message(TP_FLOW, &v6, sizeof v6);
  message(TP_CONNECTED, &connected, offsetof(struct tp_connected, fd) + 4);
  message(TP_RELAYED, &v4, sizeof v4);
  message(TP_PASS, "", 0);
  message(TP_ERRNO, &refused, 4);
  message(TP_PARK, &v4, sizeof v4);
  message(TP_PEER_IS, &v6, sizeof v6);
  /* The list is not aligned in a message, and is in the struct. */
  struct tp_header header = {TP_MAGIC, TP_ADDRESSES, 17 + sizeof addresses.list};
  fwrite(&header, sizeof header, 1, stdout);
  fwrite(&addresses, 17, 1, stdout);
  fwrite(addresses.list, sizeof addresses.list, 1, stdout);
  message(TP_FAILED, &unknown, 4);
  message(TP_NAME, "backend", 7);
  struct tp_resolver resolver = {.options = 0x4000, .timeout = 5, .attempts = 2, .ndots = 15, .nameservers = 2};
  struct tp_header settings = {TP_MAGIC, TP_RESOLVER_IS, sizeof resolver + sizeof addresses.list + 14};
  fwrite(&settings, sizeof settings, 1, stdout);
  fwrite(&resolver, sizeof resolver, 1, stdout);
  fwrite(addresses.list, sizeof addresses.list, 1, stdout);
  fwrite("cluster.local", 14, 1, stdout);
  message(TP_NAMESERVER_IS, &v4, sizeof v4);
  message(TP_LOCAL_IS, &v6, sizeof v6);
  struct tp_relay relay = {.relay = v4, .connected = 1};
  message(TP_RELAY, &relay, offsetof(struct tp_relay, connected) + 1);
  return 0;
}
