"""Many threads ask at once, all different things; how each of them ended, counted."""

import collections
import errno
import socket
import sys
import threading

COUNT = int(sys.argv[1])
ends = collections.Counter()
asking = threading.Semaphore(0)


def connect(_):
    with socket.socket() as client:
        return "connected" if client.connect_ex(BACKEND) == 0 else "not connected"


def refused(_):
    with socket.socket() as client:
        return errno.errorcode.get(client.connect_ex(REFUSE), "connected")


def look_up(number):
    return "found" if socket.getaddrinfo(f"backend.default.svc.cluster.local", number + 1) else "not found"


def one(number):
    work = (connect, refused, look_up)[number % 3]
    asking.release()
    try:
        ends[work(number)] += 1
    except OSError as error:
        ends[str(error)] += 1


BACKEND, REFUSE = (socket.getaddrinfo(f"{name}.default", 80, socket.AF_INET)[0][4] for name in ("backend", "refuse"))
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=one, args=(number,)) for number in range(COUNT)]
for thread in threads:
    thread.start()
for _ in threads:
    asking.acquire()
print("asking", flush=True)
for thread in threads:
    thread.join()
print(sorted(ends.items()), flush=True)
