"""unix_socket serve|ask stream|seqpacket NAME: the two sides of an AF_UNIX connection, which send each other a descriptor.
A NAME that is no path is an abstract one."""

import os
import socket
import sys
import time

role, kind, name = sys.argv[1:]
kind = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET
address = name if name.startswith("/") else "\0" + name
mine = socket.socket(socket.AF_UNIX, kind)
mine.settimeout(30)


def exchange(connection):
    """Each sends the writing end of a pipe, and writes into the one that comes."""
    connection.settimeout(30)
    reading, writing = os.pipe()
    socket.send_fds(connection, [b"one goes"], [writing])
    message, (came,), _, _ = socket.recv_fds(connection, 99, 1)
    assert message == b"one goes", message
    os.write(came, b"came")
    os.close(came)
    assert os.read(reading, 99) == b"came"
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(99) == b""


if role == "serve":
    if name.startswith("/") and os.path.exists(name):
        os.unlink(name)
    mine.bind(address)
    mine.listen()
    print("listens", flush=True)
    while True:
        try:
            exchange(mine.accept()[0])
        except TimeoutError:
            pass
else:
    until = time.monotonic() + 20
    # It may take a moment until the other side has it.
    while mine.connect_ex(address) != 0:
        assert time.monotonic() < until, "nobody listens"
        time.sleep(0.01)
    exchange(mine)
    print("a descriptor came, and one went")
