"""Keeps a connection open until it breaks, then tries new ones until one works."""

import os
import socket
import sys
import time


def echoes(connection):
    connection.settimeout(10)
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


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
