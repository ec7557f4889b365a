"""Descriptors: none of another's appears, whatever the program does with its own."""

import errno
import fcntl
import os
import resource
import select
import socket
import subprocess
import sys

ADDRESS = (socket.gethostbyname("backend"), 80)


def opened():
    """Descriptors and what they are; the folder's own is gone when it is looked at."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found


def fetch():
    with socket.create_connection(ADDRESS, timeout=20) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
        return client.makefile().read().count("service=backend")


def unchanged():
    before = opened()
    socket.getaddrinfo("backend", 80)
    answers = fetch()
    subprocess.run(["true"], check=True)
    try:
        socket.create_connection((socket.gethostbyname("refuse"), 80), timeout=20)
    except ConnectionRefusedError:
        pass
    print(answers, "answer,", "the same descriptors" if opened() == before else f"{before} became {opened()}")


def standard():
    """Descriptors 0 to 2 are closed, so that the socket, and whatever else is opened, takes their numbers."""
    out = fcntl.fcntl(1, fcntl.F_DUPFD, 10)
    os.closerange(0, 3)
    client = socket.socket()
    number = client.fileno()
    client.connect(ADDRESS)
    client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
    answer = b"".join(iter(lambda: client.recv(4096), b""))
    client.close()
    os.write(out, b"socket %d, %d answer\n" % (number, answer.count(b"service=backend")))
    os.dup2(out, 1)


def moved():
    """A socket that was asked to wait is moved to another number, whose own file is closed by that."""
    client = socket.socket()
    client.setblocking(False)
    started = client.connect_ex(ADDRESS)
    low = os.dup2(client.fileno(), 0)
    client.close()
    client = socket.socket(fileno=low)
    client.settimeout(20)
    assert started in (0, errno.EINPROGRESS), started
    select.select([], [client], [], 20)
    client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
    print("moved,", client.makefile().read().count("service=backend"), "answer")


def all_closed():
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    print("all closed,", fetch(), "answer")


def few():
    """With no number left but the sockets' own: a connect() that waits needs none, and one that does not tells that there are too
    many open files, or needs none either."""
    waits, clients = socket.socket(), [socket.socket() for _ in range(2)]
    clients[0].setblocking(False)
    highest = max(client.fileno() for client in [waits, *clients])
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for number in range(highest):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(0, number)
    print(waits.connect_ex(ADDRESS))
    error = clients[0].connect_ex(ADDRESS)
    print(errno.errorcode.get(error, error))
    clients.pop().close()
    again = clients[0].connect_ex(ADDRESS) if error == errno.EMFILE else error
    print("and with one more,", errno.errorcode.get(again, again))


unchanged()
all_closed()
sys.stdout.flush()
child = os.fork()
if child == 0:
    few()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
moved()
standard()
