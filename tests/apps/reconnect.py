"""Keeps a connection open until it breaks, then tries new ones until one works; and two datagram sockets, which stay."""

import os
import socket
import sys
import time


def echoes(connection):
    connection.settimeout(10)
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def comes_back(sockets, text, patience):
    until = time.monotonic() + patience
    for one in sockets:
        while one.send(text) != one.recv_into(bytearray(9)):
            if time.monotonic() > until:
                return False
    return True


class Datagrams(socket.socket):
    """A datagram socket that waits for an answer for a while, and gives 0 when none came."""

    def recv_into(self, room):
        try:
            return super().recv_into(room)
        except TimeoutError:
            return 0


class Unconnected(Datagrams):
    def send(self, text):
        return self.sendto(text, service)


service = socket.getaddrinfo("udp-" + sys.argv[1].removeprefix("tcp-"), 7, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
datagrams = [kind(socket.AF_INET, socket.SOCK_DGRAM) for kind in (Datagrams, Unconnected)]
for one in datagrams:
    one.settimeout(0.5)
datagrams[0].connect(service)
assert comes_back(datagrams, b"x", 10)
connection = socket.create_connection((sys.argv[1], 7), timeout=30)
assert echoes(connection)
print(os.environ["TELEPRESENCE_POD"], flush=True)
sys.stdin.readline()
connection.settimeout(40)
try:
    print("the open connection ended" if connection.recv(1) == b"" else "more came", flush=True)
except TimeoutError:
    print("the open connection hangs", flush=True)
except OSError:
    print("the open connection ended", flush=True)
until = time.monotonic() + 40
while time.monotonic() < until:
    try:
        if echoes(socket.create_connection((sys.argv[1], 7), timeout=20)):
            print("a new one works", flush=True)
            break
    except OSError:
        time.sleep(0.2)
print("datagrams come back" if comes_back(datagrams, b"two", 40) else "datagrams are lost", flush=True)


def is_lost_pods():
    with open("/etc/hosts") as hosts:
        return os.environ["TELEPRESENCE_POD"] in hosts.read()


until = time.monotonic() + 40
while is_lost_pods() and time.monotonic() < until:
    time.sleep(0.1)
print("hosts is the lost pod's" if is_lost_pods() else "hosts is another pod's", flush=True)
