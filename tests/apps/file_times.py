"""`file_times.py FOLDER`: reads FOLDER's `big` from front to back, then looks at each file of its `tree`; says how many
milliseconds that took, "read MS" and "find MS"."""

import os
import subprocess
import sys
import time

folder = sys.argv[1]
buffer = bytearray(1 << 20)


def read():
    total = 0
    with open(os.path.join(folder, "big"), "rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            total += count
    assert total == 100 << 20, total


def find():
    words = ["find", os.path.join(folder, "tree"), "-type", "f", "-size", "-9"]
    found = subprocess.run(words, capture_output=True, check=True).stdout.count(b"\n")
    assert found == 5000, found


for work in read, find:
    began = time.monotonic()
    work()
    print(work.__name__, (time.monotonic() - began) * 1000)
