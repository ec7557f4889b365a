"""Datagrams in numbers, and what programs do with event loops: `udp.py WHAT`."""

import asyncio
import ctypes
import errno
import fcntl
import os
import random
import selectors
import signal
import socket
import struct
import sys
import threading
import time

ECHO = "udp-echo.default.svc.cluster.local"
DNS = ("10.96.0.10", 53)
PATIENCE = 30


def echo(family=socket.AF_INET):
    return socket.getaddrinfo(ECHO, 7, family, socket.SOCK_DGRAM)[0][4]


def thousands():
    """2,000 sockets, one in two connected, each with a flow of its own; lost datagrams are sent again."""
    address, count = echo(), 2000
    selector, waiting = selectors.DefaultSelector(), {}
    for number in range(count):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setblocking(False)
        if number % 2:
            client.connect(address)
        selector.register(client, selectors.EVENT_READ, number)
        waiting[number] = client
    give_up = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < give_up:
        for batch in range(0, count, 100):
            for number in range(batch, batch + 100):
                if client := waiting.get(number):
                    text = f"flow {number}".encode()
                    client.send(text) if number % 2 else client.sendto(text, address)
            take(selector, waiting, address, 0.05)
        take(selector, waiting, address, 0.5)
    print(f"{count - len(waiting)} of {count} flows")


def take(selector, waiting, address, patience):
    while ready := selector.select(patience):
        for key, _ in ready:
            text, source = key.fileobj.recvfrom(100)
            if text.decode() == f"flow {key.data}" and source == address:
                waiting.pop(key.data, None)


def threads():
    """20 threads with a socket each and one that all share, 50 questions a thread."""
    address, right = echo(), []
    shared = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def ask(number):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            for turn in range(50):
                text = f"{number} {turn}".encode()
                shared.sendto(b"", address)
                right.append(any(exchange(client, text, address) for _ in range(10)))

    running = [threading.Thread(target=ask, args=[number]) for number in range(20)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(right.count(True), "of", len(right))


def exchange(client, text, address):
    client.sendto(text, address)
    try:
        while client.recvfrom(100) != (text, address):
            pass
        return True
    except TimeoutError:
        return False


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", random.randrange(65536), 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def many_destinations():
    """One socket asks three services at once; each answer has its own source."""
    v4, v6 = echo(), echo(socket.AF_INET6)
    mapped = lambda address: ("::ffff:" + address[0], address[1], 0, 0)
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    client.settimeout(10)
    asked = {mapped(v4): b"four", v6: b"six", mapped(DNS): question("backend.default.svc.cluster.local")}
    for address, text in asked.items():
        client.sendto(text, address)
    for _ in asked:
        text, source = client.recvfrom(1000)
        asked[source] = text[:2] == asked[source][:2]
    print(list(asked.values()))
    # Two sockets with one destination have answers of their own.
    pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for number, one in enumerate(pair):
        one.settimeout(10)
        one.sendto(bytes([number]), v4)
    print([one.recvfrom(10) == (bytes([number]), v4) for number, one in enumerate(pair)])


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, done):
        self.done = done

    def datagram_received(self, data, source):
        self.done.set_result((data, source))

    def error_received(self, error):
        self.done.set_result(errno.errorcode[error.errno])


async def loop():
    running = asyncio.get_running_loop()

    async def ask(text, remote, address):
        done = running.create_future()
        transport, _ = await running.create_datagram_endpoint(
            lambda: Protocol(done), remote_addr=remote, local_addr=None if remote else ("0.0.0.0", 0)
        )
        transport.sendto(text, address)
        answer = await asyncio.wait_for(done, PATIENCE)
        peer = transport.get_extra_info("peername")
        transport.close()
        return answer, peer

    address = echo()
    refused = socket.getaddrinfo("refuse", 80, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
    print(await ask(b"asked", address, None) == ((b"asked", address), address))
    print(await ask(b"asked", None, address) == ((b"asked", address), None))
    print((await ask(b"asked", refused, None))[0])


def orphan():
    """What is told when the launcher dies: never silence on a connected socket, and nothing new works."""
    address = echo()
    old, connected = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    connected.settimeout(10)
    connected.connect(address)
    connected.send(b"x")
    print(connected.recv(9))
    old.settimeout(10)
    print(exchange(old, b"y", address))
    launcher = os.getppid()
    os.kill(launcher, signal.SIGKILL)
    while os.getppid() == launcher:
        time.sleep(0.01)
    for attempt in (lambda: answered(connected), lambda: fresh().connect(address), lambda: fresh().sendto(b"x", DNS)):
        print(in_the_end(attempt))
    try:
        # The socket that knows its way loses what it sends until the shim asks again.
        for _ in range(PATIENCE * 10):
            time.sleep(0.1)
            old.sendto(b"y", address)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)


def answered(client):
    """What is sent in the moment in which the launcher dies may be lost; what is sent again is not."""
    client.settimeout(0.1)
    for _ in range(PATIENCE * 10):
        try:
            client.send(b"x")
            return client.recv(9)
        except TimeoutError:
            pass
    return "silence"


def in_the_end(attempt):
    """A network whose other end has just died may take a moment to know."""
    for _ in range(PATIENCE * 10):
        try:
            attempt()
        except OSError as error:
            return errno.errorcode[error.errno]
        time.sleep(0.1)
    return "no error"


def fresh():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def by_a_card():
    """Sockets that were told to use a network card, or bound to its addresses."""
    index, card = next((index, name) for index, name in socket.if_nameindex() if name != "lo")
    bind_to_index, unicast_if, unicast_if_v6 = 62, 50, 76
    told = [
        (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, card.encode()),
        (socket.SOL_SOCKET, bind_to_index, struct.pack("i", index)),
        (socket.IPPROTO_IP, unicast_if, struct.pack(">i", index)),
        (socket.IPPROTO_IPV6, unicast_if_v6, struct.pack(">i", index)),
        (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("16xi", index)),
    ]
    for family in (socket.AF_INET, socket.AF_INET6):
        address = echo(family)
        for option in told[:3] if family == socket.AF_INET else told:
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.setsockopt(*option)
                print(option[1], exchange(client, b"by a card", address))
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.bind((address_of(card, family), 0))
            print("bound", exchange(client, b"bound", address))


def address_of(card, family):
    if family == socket.AF_INET6:
        with open("/proc/net/if_inet6") as lines:
            found = [line.split() for line in lines]
        return next(
            socket.inet_ntop(family, bytes.fromhex(address))
            for address, _, _, scope, _, name in found
            if name == card and scope == "00"
        )
    with fresh() as client:
        tell_address = 0x8915
        told = fcntl.ioctl(client.fileno(), tell_address, struct.pack("256s", card.encode()))
        return socket.inet_ntoa(told[20:24])


def out_of_descriptors():
    """A program that has used up its descriptors sends on, also when the shim would ask again."""
    address, client, open_files = echo(), fresh(), []
    client.settimeout(1)
    assert any(exchange(client, b"before", address) for _ in range(10))
    try:
        while True:
            open_files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(errno.errorcode[error.errno])
    until = time.monotonic() + 13
    while time.monotonic() < until:
        assert any(exchange(client, b"after", address) for _ in range(10))
        time.sleep(0.1)
    print("it sends on")


def closed_to_others():
    """A process that no other may look into (ssh-agent is one) is told of a refused port all the same."""
    set_dumpable = 4
    assert ctypes.CDLL(None).prctl(set_dumpable, 0, 0, 0, 0) == 0
    refused = socket.getaddrinfo("refuse", 80, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
    with fresh() as client:
        client.connect(refused)
        try:
            for _ in range(PATIENCE * 20):
                client.send(b"x")
                time.sleep(0.05)
        except OSError as error:
            print(errno.errorcode[error.errno])


def last_words():
    """A program that sends and ends at once, as those of metrics do: `udp.py last_words HOST PORT`."""
    with fresh() as client:
        for _ in range(10):
            client.sendto(b"last words", (sys.argv[2], int(sys.argv[3])))


what = globals()[sys.argv[1]]
asyncio.run(what()) if asyncio.iscoroutinefunction(what) else what()
