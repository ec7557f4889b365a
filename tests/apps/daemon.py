"""daemon.py FILE: a daemon, forked twice, that outlives who started it. FILE gets what it saw before and after."""

import errno
import os
import socket
import sys
import time

path = sys.argv[1]
launcher = f"/proc/{os.getppid()}"
address = (socket.gethostbyname("backend"), 80)


def ends(name):
    try:
        socket.create_connection(address, timeout=20).close()
        return f"{name} connected"
    except OSError as error:
        return f"{name} {errno.errorcode.get(error.errno, error)}"


reads, writes = os.pipe()
if os.fork():
    os.close(writes)
    os.read(reads, 1)
    print("started")
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
null = os.open("/dev/null", os.O_RDWR)
for standard in range(3):
    os.dup2(null, standard)
said = [ends("while it ran:")]
os.close(writes)
while os.path.exists(launcher):
    time.sleep(0.01)
said.append(ends("afterwards:"))
with open(path + ".new", "w") as file:
    file.write("\n".join(said))
os.rename(path + ".new", path)
