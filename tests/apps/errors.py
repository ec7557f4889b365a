"""What connects end with: one line a case, the same wherever the network is the same.

Each address is tried blocking, non-blocking with select and SO_ERROR, and with epoll, over both families.
"""

import errno
import select
import socket
import sys

SERVICES = ["backend", "refuse", "unreachable", "netunreachable", "blackhole"]
PATIENCE = 8


def name_of(code):
    return errno.errorcode.get(code, str(code)) if code else "0"


def blocking(client, address):
    client.settimeout(None)
    try:
        client.connect(address)
        return "connected"
    except OSError as error:
        return name_of(error.errno)


def with_timeout(client, address):
    client.settimeout(2)
    try:
        client.connect(address)
        return "connected"
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return name_of(error.errno)


def by_select(client, address):
    client.setblocking(False)
    first = name_of(client.connect_ex(address))
    readable, writable, _ = select.select([client], [client], [], PATIENCE)
    if not writable:
        return f"{first} then silence"
    status = name_of(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return f"{first} readable={bool(readable)} SO_ERROR={status}"


def by_epoll(client, address):
    client.setblocking(False)
    first = name_of(client.connect_ex(address))
    poll = select.epoll()
    poll.register(client, select.EPOLLIN | select.EPOLLOUT)
    events = poll.poll(PATIENCE)
    poll.close()
    if not events:
        return f"{first} then silence"
    # Which other bits come with an ICMP error depends on when one looks: the kernel reports before it closes.
    failed = bool(events[0][1] & select.EPOLLERR)
    status = name_of(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    again = "" if failed else f" connect={name_of(client.connect_ex(address))}"
    return f"{first} EPOLLERR={failed} SO_ERROR={status}{again}"


def by_connect(client, address):
    """Some programs call connect until it says something final."""
    client.setblocking(False)
    said = []
    for _ in range(PATIENCE * 100):
        said.append(name_of(client.connect_ex(address)))
        if said[-1] not in ("EINPROGRESS", "EALREADY"):
            break
        select.select([], [client], [], 0.01)
    return f"{said[0]} and in the end {said[-1]}"


def peer_of(client, address):
    client.settimeout(2)
    client.connect_ex(address)
    try:
        return "peer" if client.getpeername()[:2] == address[:2] else f"another peer {client.getpeername()}"
    except OSError as error:
        return name_of(error.errno)


def reset():
    """The far side ends the connection by RST after one byte."""
    with socket.create_connection(("resetter.default", 10), timeout=10) as client:
        client.sendall(b"x")
        try:
            print("resetter recv", client.recv(1))
        except OSError as error:
            print("resetter recv", name_of(error.errno))
        try:
            client.sendall(b"x")
            print("resetter send ok")
        except OSError as error:
            print("resetter send", name_of(error.errno))


def main():
    families = {socket.AF_INET: "v4", socket.AF_INET6: "v6"}
    ways = [blocking, with_timeout, by_select, by_epoll, by_connect, peer_of]
    for service in SERVICES:
        for family, word in families.items():
            found = socket.getaddrinfo(f"{service}.default.svc.cluster.local", 80, family, socket.SOCK_STREAM)
            for way in ways:
                if service == "blackhole" and way not in (with_timeout, peer_of):
                    continue
                # After an ICMP error the kernel's own answers to a second connect() differ from run to run.
                if way is by_connect and service.endswith("unreachable"):
                    continue
                with socket.socket(family, socket.SOCK_STREAM) as client:
                    print(service, word, way.__name__, way(client, found[0][4]))
    reset()
    with socket.socket() as client:
        print("a port of loopback that is closed", name_of(client.connect_ex(("127.0.0.1", 1))))
    with socket.socket(socket.AF_INET6) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        print("mapped on an IPv6-only socket", name_of(client.connect_ex(("::ffff:192.0.2.1", 80))))


main()
