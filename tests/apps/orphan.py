"""Says what becomes of connections and lookups when the launcher is killed."""

import socket
import threading

connection = socket.create_connection(("tcp-echo", 7), timeout=30)
connection.sendall(b"x")
assert connection.recv(1) == b"x"
print("ready", flush=True)

try:
    ended = connection.recv(1) == b""
except TimeoutError:
    ended = False
except OSError:
    ended = True
print("the open connection ended" if ended else "the open connection hangs", flush=True)


def outcome(what, call, *arguments, **options):
    try:
        call(*arguments, **options)
        print(what, "worked", flush=True)
    except TimeoutError:
        print(what, "hung", flush=True)
    except OSError:
        print(what, "failed", flush=True)


outcome("a new connection", socket.create_connection, ("192.0.2.9", 80), timeout=10)
outcome("a lookup", socket.getaddrinfo, "backend", 80)

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=lambda: listener.accept()[0].sendall(b"y"), daemon=True).start()
try:
    local = socket.create_connection(listener.getsockname(), timeout=10)
    print("loopback works" if local.recv(1) == b"y" else "loopback fails", flush=True)
except OSError:
    print("loopback fails", flush=True)
