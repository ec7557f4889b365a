"""What a socket says that is connected twice, given up, shut, shared or passed on: the same wherever the network is.

One line a step. Addresses are the services' own, so a line compares as it is.
"""

import array
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
PATIENCE = 20
SETTLE = 0.05
MASKS = {1: "IN", 4: "OUT", 8: "ERR", 16: "HUP", 0x2000: "RDHUP"}


def name_of(code):
    return errno.errorcode.get(code, str(code)) if code else "0"


def called(result):
    return name_of(ctypes.get_errno()) if result < 0 else str(result)


def mask_of(mask):
    return "+".join(word for bit, word in MASKS.items() if mask & bit) or "nothing"


def error_of(client):
    return name_of(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def spelled(client, address):
    if client.family == socket.AF_INET:
        return struct.pack("=HH4s8x", client.family, socket.htons(address[1]), socket.inet_aton(address[0]))
    ip = socket.inet_pton(socket.AF_INET6, address[0])
    return struct.pack("=HHI16sI", client.family, socket.htons(address[1]), 0, ip, 0)


def connect(client, address):
    """connect(2) itself, without Python's own retries."""
    raw = spelled(client, address)
    return called(LIBC.connect(client.fileno(), raw, len(raw)))


def dissolve(client):
    return called(LIBC.connect(client.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16))


def settled(client):
    """Waits for the end of an attempt, and until what comes with it has come too."""
    select.select([], [client], [], PATIENCE)
    select.select([], [], [], SETTLE)


def masks(client):
    return mask_of(dict((fd, mask) for fd, mask in polled(client)).get(client.fileno(), 0))


def polled(client):
    poll = select.poll()
    poll.register(client, select.POLLIN | select.POLLOUT | 0x2000)
    return poll.poll(0)


def echo(client, address):
    """A request of the backend's, and who is at the other end."""
    client.setblocking(True)
    client.settimeout(PATIENCE)
    client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
    answer = client.recv(12).decode()
    return f"{answer} peer={client.getpeername()[:2] == address[:2]}"


def opened(family):
    client = socket.socket(family)
    client.setblocking(False)
    return client


def again_after_so_error(family, at):
    with opened(family) as client:
        said = [connect(client, at["refuse"])]
        settled(client)
        said += [masks(client), error_of(client), error_of(client), masks(client)]
        for _ in range(3):
            said.append(connect(client, at["backend"]))
            if said[-1] == "EINPROGRESS":
                break
        settled(client)
        said += [masks(client), error_of(client), connect(client, at["backend"]), echo(client, at["backend"])]
        yield said


def again_without_so_error(family, at):
    with opened(family) as client:
        said = [connect(client, at["refuse"])]
        settled(client)
        said += [connect(client, at["backend"]), masks(client), connect(client, at["backend"])]
        settled(client)
        yield said + [error_of(client), echo(client, at["backend"])]


def again_after_blocking(family, at):
    with socket.socket(family) as client:
        said = [connect(client, at["refuse"]), masks(client), error_of(client)]
        said += [connect(client, at["refuse"]), connect(client, at["backend"]), connect(client, at["refuse"])]
        yield said + [echo(client, at["backend"])]


def pending_and_open(family, at):
    with opened(family) as client:
        said = [connect(client, at["blackhole"]), connect(client, at["backend"]), masks(client), error_of(client)]
        said.append(dissolve(client))
        said += [masks(client), error_of(client), connect(client, at["backend"])]
        settled(client)
        said += [error_of(client), echo(client, at["backend"]), connect(client, at["blackhole"])]
        said += [dissolve(client), connect(client, at["talker"])]
        client.settimeout(PATIENCE)
        said.append(client.getpeername()[:2] == at["talker"][:2] if select.select([client], [], [], PATIENCE)[0] else "silence")
        yield said + [client.recv(4).decode(), error_of(client)]


def shut_before_open(family, at):
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        with opened(family) as client:
            said = ["how", how, connect(client, at["blackhole"]), called(LIBC.shutdown(client.fileno(), how))]
            said += [masks(client), error_of(client), connect(client, at["backend"])]
            settled(client)
            yield said + [error_of(client), echo(client, at["backend"])]


def used_before_open(family, at):
    with opened(family) as client:
        room = ctypes.create_string_buffer(8)
        said = [connect(client, at["blackhole"])]
        said.append(called(LIBC.recv(client.fileno(), room, 8, 0)))
        said.append(called(LIBC.send(client.fileno(), b"x", 1, 0)))
        said.append(called(LIBC.listen(client.fileno(), 1)))
        yield said


def from_next_door(family, at):
    """A TTL of 255 says that a packet has passed no router (RFC 5082); the second SYN comes after a second."""
    level, name = {4: (0, 2), 16: (41, 16)}[len(socket.inet_pton(family, at["blackhole"][0]))]
    early, late = opened(family), opened(family)
    early.setsockopt(level, name, 255)
    said = [connect(client, at["blackhole"]) for client in (early, late)]
    late.setsockopt(level, name, 255)
    said += [masks(early), early.getsockopt(level, name)]
    select.select([], [], [], 1.2)
    yield said + [masks(early), masks(late)]
    early.close()
    late.close()


def timed_out(family, at):
    with socket.socket(family) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000))
        said = [connect(client, at["blackhole"]), connect(client, at["blackhole"]), masks(client)]
        said += [dissolve(client), connect(client, at["backend"])]
        yield said + [echo(client, at["backend"])]


def by_its_own_clock(family, at):
    """TCP_USER_TIMEOUT and TCP_SYNCNT (tcp(7)) have the kernel give up before the pod's does."""
    for name, value in ((18, 300), (7, 1)):
        with socket.socket(family) as client:
            client.setsockopt(socket.IPPROTO_TCP, name, value)
            said = [name, connect(client, at["blackhole"]), masks(client), error_of(client)]
            yield said + [connect(client, at["backend"]), echo(client, at["backend"])]


def with_options(family, at):
    """Options that a program sets before it connects, and that have no say in where it gets to."""
    level, none = (41, 76) if family == socket.AF_INET6 else (0, 50)
    options = [
        (socket.IPPROTO_TCP, 30, 1),  # TCP_FASTOPEN_CONNECT
        (0, 24, 1),  # IP_BIND_ADDRESS_NO_PORT
        (level, none, 0),  # no IP_UNICAST_IF
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
        (socket.SOL_SOCKET, 62, 0),  # no SO_BINDTOIFINDEX
    ]
    for which in options:
        with socket.socket(family) as client:
            client.setsockopt(*which)
            if which[1] == 24:
                client.bind(("", 0))
            yield [which, connect(client, at["backend"]), echo(client, at["backend"])]


def interrupted(family, at):
    for restarts in (False, True):
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, not restarts)
        with socket.socket(family) as client:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            said = ["restarts", restarts]
            if restarts:
                # It goes on waiting after the signal, so something else must end it.
                threading.Timer(0.5, LIBC.shutdown, (client.fileno(), socket.SHUT_RDWR)).start()
            said += [connect(client, at["blackhole"]), masks(client), error_of(client)]
            client.setblocking(False)
            said.append(connect(client, at["backend"]))
            yield said


def two_threads(family, at):
    with socket.socket(family) as client:
        said = [None, None]

        def one(place):
            said[place] = connect(client, at["backend"])

        threads = [threading.Thread(target=one, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        # The second one waits with the first one or comes after it: that is chance.
        yield [all(word in ("0", "EISCONN") for word in said), "0" in said, echo(client, at["backend"])]
    with socket.socket(family) as client:
        said = [None]
        thread = threading.Thread(target=lambda: said.__setitem__(0, connect(client, at["blackhole"])))
        thread.start()
        select.select([], [], [], 0.3)
        second = socket.socket(fileno=os.dup(client.fileno()))
        said.append(called(LIBC.shutdown(second.fileno(), socket.SHUT_RDWR)))
        thread.join(PATIENCE)
        second.close()
        yield said


def shared(family, at):
    with opened(family) as client:
        copy = client.dup()
        said = [connect(copy, at["backend"])]
        copy.close()
        settled(client)
        yield ["dup"] + said + [error_of(client), echo(client, at["backend"])]
    with socket.socket(family) as client:
        child = os.fork()
        if child == 0:
            os._exit(0 if connect(client, at["backend"]) == "0" else 1)
        yield ["forked", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), echo(client, at["backend"])]
    ours, theirs = socket.socketpair()
    with opened(family) as client:
        child = os.fork()
        if child == 0:
            _, [(_, _, rights)], _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
            passed = socket.socket(fileno=array.array("i", rights)[0])
            settled(passed)
            os._exit(0 if error_of(passed) == "ECONNREFUSED" else 1)
        said = connect(client, at["refuse"])
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))])
        client.close()
        yield ["passed on while pending", said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def names(family, at):
    with opened(family) as client:
        said = [client.getsockname()[:2]]
        said.append(connect(client, at["blackhole"]))
        said += [client.getsockname()[0], client.getsockname()[1] != 0]
        try:
            said.append(client.getpeername())
        except OSError as error:
            said.append(name_of(error.errno))
        yield said
    with socket.create_connection(at["backend"][:2], PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
        yield [client.getsockname()[0], client.getsockname()[1] != 0, client.getpeername()[:2] == at["backend"][:2]]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        said = [client.getsockname()[:2], connect(client, at["backend"])]
        said += [client.getsockname()[0], client.getsockname()[1] != 0]
        yield ["datagrams"] + said + [client.getpeername()[:2] == at["backend"][:2], dissolve(client), client.getsockname()[0]]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        yield ["here", client.getsockname()[0], client.getpeername() == server.getsockname()]


def registered_before(family, at):
    """Masks of epoll, of a socket that was registered before it was connected."""
    for edge in (0, select.EPOLLET):
        for service in ("backend", "refuse"):
            with opened(family) as client, select.epoll() as poll:
                poll.register(client, select.EPOLLIN | select.EPOLLOUT | 0x2000 | edge)
                said = [service, "edge" if edge else "level", masks_of(poll.poll(0)), connect(client, at[service])]
                said.append(masks_of(poll.poll(0)) if service == "blackhole" else "")
                last = poll.poll(PATIENCE)
                # What comes in two steps may be seen in one or in two.
                select.select([], [], [], SETTLE)
                last = poll.poll(0) or last
                yield said + [masks_of(last), error_of(client)]


def masks_of(events):
    return mask_of(events[0][1]) if events else "nothing"


STEPS = [
    again_after_so_error,
    again_without_so_error,
    again_after_blocking,
    pending_and_open,
    shut_before_open,
    used_before_open,
    from_next_door,
    timed_out,
    by_its_own_clock,
    with_options,
    interrupted,
    two_threads,
    shared,
    names,
    registered_before,
]


def addresses(family):
    ports = {"backend": 80, "refuse": 80, "blackhole": 80, "talker": 25}
    if family == "mapped":
        found = addresses(socket.AF_INET)
        return {service: (f"::ffff:{address[0]}", address[1]) for service, address in found.items()}
    return {
        service: socket.getaddrinfo(f"{service}.default", port, family, socket.SOCK_STREAM)[0][4]
        for service, port in ports.items()
    }


def main():
    chosen = sys.argv[1:]
    for family, word in ((socket.AF_INET, "v4"), (socket.AF_INET6, "v6"), ("mapped", "mapped")):
        at = addresses(family)
        for step in STEPS:
            if chosen and step.__name__ not in chosen:
                continue
            for said in step(socket.AF_INET6 if family == "mapped" else family, at):
                print(word, step.__name__, *said, flush=True)


main()
