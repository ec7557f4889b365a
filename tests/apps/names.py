"""Looks names up by the functions that programs use, and says what came, in words that do not depend on the libc."""

import os
import socket
import sys
import tempfile
import threading

EAI = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}
HOST = {1: "HOST_NOT_FOUND", 2: "TRY_AGAIN", 3: "NO_RECOVERY", 4: "NO_DATA"}


def error_of(call, *arguments):
    try:
        return f"found {call(*arguments)}"
    except socket.gaierror as error:
        return EAI.get(error.errno, str(error))
    except socket.herror as error:
        return HOST.get(error.errno, str(error))


def missing(name):
    print("getaddrinfo", error_of(socket.getaddrinfo, name, 80))
    print("gethostbyname", error_of(socket.gethostbyname, name))
    print("gethostbyname_ex", error_of(socket.gethostbyname_ex, name))


def old(name):
    canonical, aliases, addresses = socket.gethostbyname_ex(name)
    print(canonical, [alias for alias in aliases if alias != name], addresses)
    print(socket.gethostbyname(name))
    found = socket.getaddrinfo(name, "http", socket.AF_INET, socket.SOCK_STREAM)
    print(*found[0][4])


def reverse(address):
    try:
        print(socket.gethostbyaddr(address)[0])
    except socket.herror as error:
        sys.exit(HOST.get(error.errno, str(error)))
    print(socket.getnameinfo((address, 80), socket.NI_NAMEREQD)[0])


def mapped(address):
    with socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{address}", 80))
        peer = client.getpeername()
        client.sendall(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
        answer = client.makefile("rb").read().decode()
    print("peer", peer[0], peer[1])
    print(next(line for line in answer.splitlines() if line.startswith("service=")))


def echo_once(listener):
    peer, _ = listener.accept()
    with peer:
        peer.sendall(peer.recv(100))


def through(listener, address):
    thread = threading.Thread(target=echo_once, args=(listener,))
    thread.start()
    with socket.socket(listener.family) as client:
        client.connect(address)
        client.sendall(b"ok")
        answer = client.recv(100).decode()
    thread.join()
    listener.close()
    return answer


def loopback():
    listener = socket.create_server(("127.0.0.1", 0))
    print("loopback", through(listener, listener.getsockname()))
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, "s"))
        listener.listen()
        print("unix", through(listener, os.path.join(folder, "s")))


globals()[sys.argv[1]](*sys.argv[2:])
