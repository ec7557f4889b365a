"""Connects to a black hole and gives each attempt up in another way, one step for each line on standard input."""

import ctypes
import os
import socket
import struct
import sys

LIBC = ctypes.CDLL(None)
FAMILY = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET


def step(said):
    print(said, flush=True)
    sys.stdin.readline()


def pending(port):
    client = socket.socket(FAMILY)
    client.setblocking(False)
    client.bind(("", 0))
    client.connect_ex((sys.argv[1], port))
    return client


def dissolve(client):
    LIBC.connect(client.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)


def child(work):
    number = os.fork()
    if number == 0:
        work()
        os._exit(0)
    return number


client = pending(1001)
own = client.getsockname()[1]
step("pending")
client.close()
step("closed")
with socket.socket(FAMILY) as again:
    again.bind(("", own))
    print("the port is free")

client = pending(1002)
step("pending")
dissolve(client)
step("taken back")
client.close()

client = pending(1003)
step("pending")
client.shutdown(socket.SHUT_RDWR)
step("shut")
client.close()

client = pending(1004)
step("pending")
dissolve(client)
client.connect_ex((sys.argv[1], 1005))
step("sent elsewhere")
client.close()

ours, theirs = os.pipe()


def until_told():
    kept = pending(1006)
    step("pending")
    # Its end closes the socket, not Python.
    os._exit(kept.fileno() < 0)


os.waitpid(child(until_told), 0)
step("ended")

client = pending(1007)
keeper = child(lambda: (os.close(theirs), os.read(ours, 1)))
client.close()
step("kept by another")
os.close(theirs)
os.waitpid(keeper, 0)
step("kept by nobody")
