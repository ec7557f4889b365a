"""What a transfer and connects that are under way end with when the launcher is killed."""

import errno
import select
import socket
import threading

HOLE = ("192.0.2.9", 80)
said = []


def name_of(code):
    return errno.errorcode.get(code, str(code)) if code else "0"


def transfer(started):
    moved = 0
    with socket.create_connection(("tcp-echo", 7), timeout=60) as client:
        try:
            while True:
                client.sendall(b"x" * 65536)
                got = client.recv(65536)
                moved += len(got)
                started.set()
                if not got:
                    return "looked complete"
        except TimeoutError:
            return "hung"
        except OSError:
            return "broke"


def blocking(started):
    with socket.socket() as client:
        started.set()
        return name_of(client.connect_ex(HOLE))


def non_blocking(started):
    with socket.socket() as client:
        client.setblocking(False)
        first = name_of(client.connect_ex(HOLE))
        started.set()
        _, writable, _ = select.select([], [client], [], 60)
        try:
            failed = writable and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:
            failed = True
        return f"{first}, then {'failed' if failed else 'hung'}"


def one(work):
    started = threading.Event()
    threads.append(threading.Thread(target=lambda: said.append(f"{work.__name__}: {work(started)}")))
    threads[-1].start()
    started.wait()


threads = []
for work in (transfer, blocking, non_blocking):
    one(work)
print("ready", flush=True)
for thread in threads:
    thread.join()
print(*sorted(said), sep="\n", flush=True)
