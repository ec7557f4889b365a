"""One thread waits for a name that is never answered; others look names up meanwhile and do not wait for it."""

import socket
import threading

names = [f"{host}{suffix}" for host in ("backend", "web", "tcp-echo", "digest", "talker")
         for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
slow_end = []


def slow():
    try:
        slow_end.append(f"found {socket.getaddrinfo('x.silent.test.', 80)}")
    except socket.gaierror as error:
        slow_end.append("EAI_AGAIN" if error.errno == socket.EAI_AGAIN else str(error))


thread = threading.Thread(target=slow)
thread.start()
for name in names:
    socket.getaddrinfo(name, 80)
assert thread.is_alive(), slow_end
print(len(names), "lookups while one hung")
thread.join()
print("the slow one ended in", *slow_end)
