"""Keeps a connection open while its launcher sleeps, as on a laptop with the lid closed, and goes on afterwards."""

import socket
import sys


def echoes(connection):
    connection.settimeout(30)
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


connection = socket.create_connection(("tcp-echo", 7), timeout=30)
assert echoes(connection)
print("ready", flush=True)
sys.stdin.readline()
for name in ("digest", "talker", "tcp-echo"):
    try:
        socket.getaddrinfo(name, 7)
        print("a lookup worked", flush=True)
    except OSError as error:
        print("a lookup:", error, flush=True)
try:
    print("a new one", "works" if echoes(socket.create_connection(("tcp-echo", 7), timeout=30)) else "ended")
except OSError as error:
    print("a new one:", error)
try:
    print("the open connection", "works" if echoes(connection) else "ended", flush=True)
except TimeoutError:
    print("the open connection hangs", flush=True)
except OSError:
    print("the open connection ended", flush=True)
