"""The bytes of a file of the pod by turns as a plain TCP stream and as a file, and a walk through a tree; each turn's
milliseconds on a line.

`volume_times.py HOST PORT FOLDER ROUNDS`: an HTTP server at HOST serves FOLDER's `big`; `tree` is walked.
"""

import os
import socket
import subprocess
import sys
import time

host, port, folder, rounds = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
path = os.path.join(folder, "big")
buffer = bytearray(1 << 20)


def stream():
    with socket.create_connection((host, port)) as connection:
        connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        total = 0
        while count := connection.recv_into(buffer):
            total += count
    return total


def file():
    with open(path, "rb", buffering=0) as opened:
        # What the kernel keeps of the last turn would cost nothing.
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        total = 0
        while count := opened.readinto(buffer):
            total += count
    return total


def find():
    found = subprocess.run(
        ["find", os.path.join(folder, "tree"), "-type", "f", "-size", "-9"], capture_output=True, check=True
    )
    return found.stdout.count(b"\n")


length = os.stat(path).st_size
for _ in range(rounds):
    for name, work, least in (("stream", stream, length), ("file", file, length), ("find", find, 5000)):
        # Attributes are kept for a second.
        time.sleep(1.2)
        began = time.monotonic()
        done = work()
        print(name, (time.monotonic() - began) * 1000, flush=True)
        assert done >= least, (name, done)
