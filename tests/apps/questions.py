"""Writes to the launcher's socket what no shim would, while a program beside goes on as if nothing were.

Arguments, in hexadecimal: the start of every message, and a connect question about some other socket.
"""

import array
import os
import random
import socket
import struct
import sys

PATH = os.environ["TP_SOCKET"]
MAGIC, CONNECT = map(bytes.fromhex, sys.argv[1:])
random.seed(7)


def say(message, files=(), wait=True):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(20)
        client.connect(PATH)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        try:
            if message is not None:
                client.sendmsg([message], rights)
            return client.recv(8192) if wait else b""
        except (BrokenPipeError, ConnectionResetError):
            return b""


def fetch():
    with socket.create_connection(("backend.default", 80), 20) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
        return client.recv(12)


def header(kind, body, length=None, magic=MAGIC):
    return magic + struct.pack("=HH", kind, len(body) if length is None else length) + body


answered = 0
null = os.open("/dev/null", os.O_RDONLY)
for number in range(600):
    kind, size = random.choice([*range(0x30), 0x80, 0xFFFF]), random.choice([0, 1, 7, 8, 24, 33, 300, 4088, 6000])
    body = random.randbytes(size)
    message = [
        body,
        header(kind, body),
        header(kind, body, length=random.randrange(65536)),
        header(kind, body, magic=MAGIC[::-1]),
    ][number % 4]
    answered += bool(say(message, [null] * random.choice([0, 0, 1, 5, 200]), wait=number % 8 != 0))
    if number % 100 == 0:
        assert fetch() == b"HTTP/1.0 200", number
# Ones that never say a word hold nobody up.
silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(300)]
for client in silent:
    client.connect(PATH)
assert fetch() == b"HTTP/1.0 200"
# A socket that is none of those that can be opened, and one that is not the one it says.
udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
for what in (udp, tcp):
    print(say(CONNECT, [what.fileno()]).hex())
print("random ones were answered" if answered < 600 else "everything was answered")
print(fetch().decode())
