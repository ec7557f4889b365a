/* The messages between the shim and the launcher, as src/wire.rs has them: a header, then a body by its kind, in
 * the machine's own byte order. One question and one answer, each one datagram of an AF_UNIX SOCK_SEQPACKET socket.
 *
 * A test compiles this file and compares each value and offset with what src/wire.rs encodes.
 *
 * SPDX-License-Identifier: Apache-2.0 OR MIT
 */
#ifndef TP_WIRE_H
#define TP_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define TP_MAGIC UINT32_C(0x74700005) /* "tp", then the layout's version */
#define TP_MESSAGE_MAX 4096
#define TP_NAME_MAX 255
#define TP_ADDRESSES_MAX 128

/* Questions. */
enum {
  TP_CONNECT = 1, /* struct tp_connect, and the socket by SCM_RIGHTS */
  TP_PEER = 2,    /* struct tp_cookie */
  TP_WHY = 3,     /* struct tp_cookie */
  TP_LOOKUP = 4,  /* one byte of TP_WANT_*, then the name without a NUL */
  TP_REVERSE = 5, /* struct tp_address */
  TP_EXEC = 6,    /* nothing, and the file by SCM_RIGHTS */
  TP_OPENED = 7,  /* struct tp_opened; not answered */
  TP_RESOLVER = 0x10,   /* nothing */
  TP_NAMESERVER = 0x11, /* struct tp_address */
  TP_LOCAL = 0x20,      /* one byte, 1 for IPv6 */
  TP_FLOW = 0x30,      /* struct tp_address */
  TP_CONNECTED = 0x31, /* struct tp_connected, and the socket by SCM_RIGHTS */
  TP_RELAYED = 0x32,   /* struct tp_address */
  TP_ENTER = 0x40,     /* nothing */
  TP_TRAPPED = 0x41,   /* int32_t, the number of the filter's listener */
};

/* Answers. */
enum {
  TP_PASS = 0x80,      /* nothing */
  TP_ERRNO = 0x81,     /* int32_t */
  TP_PARK = 0x82,      /* struct tp_address */
  TP_PEER_IS = 0x83,   /* struct tp_address */
  TP_ADDRESSES = 0x84, /* uint32_t of seconds for which it is good; one byte of length and the canonical name;
                          two of length and the aliases, a NUL after each; then struct tp_address, any number */
  TP_FAILED = 0x85,    /* int32_t, an EAI_* */
  TP_NAME = 0x86,      /* the name without a NUL */
  TP_RESOLVER_IS = 0x90,   /* struct tp_resolver, its addresses, then domains with a NUL after each */
  TP_NAMESERVER_IS = 0x91, /* struct tp_address */
  TP_LOCAL_IS = 0xa0,      /* struct tp_address */
  TP_RELAY = 0xb0,         /* struct tp_relay */
  TP_ENTER_BY = 0xc0,      /* a path with a NUL */
  TP_NAMESPACES = 0xc1,    /* nothing; by SCM_RIGHTS the user, network and mount namespace */
  TP_TRAP = 0xc2,          /* nothing */
};

enum { TP_WANT_V4 = 1, TP_WANT_V6 = 2, TP_WANT_CONFIGURED = 4, TP_WANT_AS_TOLD = 8 };

struct tp_header {
  uint32_t magic;
  uint16_t kind;
  uint16_t length; /* of the body */
};
_Static_assert(sizeof(struct tp_header) == 8, "header");
_Static_assert(offsetof(struct tp_header, kind) == 4, "kind");
_Static_assert(offsetof(struct tp_header, length) == 6, "length");

/* Not aligned within a message: copy it out. */
struct tp_address {
  uint8_t family; /* 4 or 6 */
  uint8_t reserved;
  uint16_t port;
  uint32_t scope;
  uint8_t ip[16]; /* of IPv4 the first four */
};
_Static_assert(sizeof(struct tp_address) == 24, "address");
_Static_assert(offsetof(struct tp_address, port) == 2, "port");
_Static_assert(offsetof(struct tp_address, scope) == 4, "scope");
_Static_assert(offsetof(struct tp_address, ip) == 8, "ip");

struct tp_cookie {
  uint64_t cookie; /* SO_COOKIE */
};
_Static_assert(sizeof(struct tp_cookie) == 8, "cookie");

struct tp_connect {
  uint64_t cookie;
  struct tp_address asked;
  uint8_t v6_socket; /* 0 or 1; the message ends after it */
};
_Static_assert(offsetof(struct tp_connect, asked) == 8, "asked");
_Static_assert(offsetof(struct tp_connect, v6_socket) == 32, "v6_socket");

struct tp_opened {
  uint64_t cookie;
  struct tp_address asked;
};
_Static_assert(offsetof(struct tp_opened, asked) == 8, "asked");

struct tp_resolver {
  uint32_t options; /* RES_* of resolv.h */
  uint8_t timeout;  /* seconds */
  uint8_t attempts;
  uint8_t ndots;
  uint8_t nameservers; /* struct tp_address that follow */
};
_Static_assert(sizeof(struct tp_resolver) == 8, "resolver");
_Static_assert(offsetof(struct tp_resolver, nameservers) == 7, "nameservers");
struct tp_connected {
  uint64_t cookie;
  struct tp_address asked;
  int32_t fd; /* the socket's number in the program */
};
_Static_assert(offsetof(struct tp_connected, asked) == 8, "asked");
_Static_assert(offsetof(struct tp_connected, fd) == 32, "fd");

struct tp_relay {
  struct tp_address relay;
  uint8_t connected; /* 0 or 1; the message ends after it */
};
_Static_assert(offsetof(struct tp_relay, connected) == 24, "connected");

#endif
