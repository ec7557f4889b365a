"""Many connections and many bytes, checked as they come."""

import concurrent.futures
import errno
import hashlib
import http.client
import resource
import select
import socket
import sys
import threading

CHUNK = 1 << 18
# What GET /bytes sends: the byte at offset i is i modulo 251.
PERIOD = bytes(range(251))


def exactly(client, size):
    parts = []
    while size:
        part = client.recv(size)
        assert part, f"ended {size} bytes early"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def echoed(client, number):
    message = f"message {number}".encode()
    client.sendall(message)
    return exactly(client, len(message)) == message


def sequential(count):
    good = 0
    for number in range(count):
        with socket.create_connection(("tcp-echo", 7), timeout=20) as client:
            good += echoed(client, number)
    print(good, "echoed")


def at_once(count):
    address = socket.getaddrinfo("tcp-echo", 7, type=socket.SOCK_STREAM)[0][4]
    clients = [None] * count

    def connect(number):
        clients[number] = socket.create_connection(address[:2], timeout=60)

    threads = [threading.Thread(target=connect, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(client is not None for client in clients), "open at once")
    print(sum(echoed(client, number) for number, client in enumerate(clients)), "echoed")


def many(count):
    """More than a program may have open unless it asks for that, which the launcher has done as well."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > count + 100, f"only {hard} open files are allowed here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address = (socket.gethostbyname("tcp-echo"), 7)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        clients = list(pool.map(lambda _: socket.create_connection(address, timeout=60), range(count)))
        print(len(clients), "open at once")
        print(sum(pool.map(echoed, clients, range(count))), "echoed")


def checked(source, size, pause=None):
    """Reads what GET /bytes sends to its end, and compares it with what it must be."""
    pattern = PERIOD * (CHUNK // len(PERIOD) + 2)
    offset = 0
    while part := source.read(CHUNK):
        start = offset % len(PERIOD)
        assert part == pattern[start : start + len(part)], f"wrong bytes after {offset}"
        offset += len(part)
        if pause:
            pause()
            pause = None
    assert offset == size, f"{offset} bytes of {size}"


def get_bytes(size):
    connection = http.client.HTTPConnection("backend", timeout=60)
    connection.request("GET", f"/bytes?n={size}")
    return connection.getresponse()


def down(size):
    checked(get_bytes(size), size)
    print(size, "bytes, each as it was sent")


def up(size):
    """The server answers with how many bytes came and their SHA-256."""
    pattern = PERIOD * (CHUNK // len(PERIOD) + 2)
    hash = hashlib.sha256()

    def chunks():
        for offset in range(0, size, CHUNK):
            start = offset % len(PERIOD)
            chunk = pattern[start : start + min(CHUNK, size - offset)]
            hash.update(chunk)
            yield chunk

    connection = http.client.HTTPConnection("backend", timeout=60)
    connection.request("PUT", "/sink", body=chunks(), headers={"Content-Length": str(size)})
    answer = connection.getresponse().read().decode().split()
    assert answer == [str(size), hash.hexdigest()], answer
    print(size, "bytes, and the digest that the server made of them")


def echo_one(number, size, ends):
    body = hashlib.sha256(str(number).encode()).digest() * (size // 32)
    with socket.create_connection(("backend", 80), timeout=120) as client:
        head = f"PUT /echo HTTP/1.0\r\nHost: backend\r\nContent-Length: {len(body)}\r\n\r\n"
        sender = threading.Thread(target=client.sendall, args=(head.encode() + body,))
        sender.start()
        answer = http.client.HTTPResponse(client)
        answer.begin()
        back = answer.read()
        sender.join()
    if back == body:
        ends.append(number)


def echo(count, size):
    ends = []
    threads = [threading.Thread(target=echo_one, args=(number, size, ends)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(ends), "came back whole")


def half_close():
    with socket.create_connection(("digest", 9), timeout=20) as client:
        client.sendall(b"all of it" * 100_000)
        client.shutdown(socket.SHUT_WR)
        print(client.makefile().read().strip())


def listen():
    with socket.create_connection(("talker", 25), timeout=20) as client:
        print(client.makefile().readline().strip())


def slow_reader(size):
    def others():
        for number in range(20):
            with socket.create_connection(("tcp-echo", 7), timeout=20) as client:
                assert echoed(client, number)
        down_size = 4 << 20
        checked(get_bytes(down_size), down_size)
        print("others were answered while one did not read")

    checked(get_bytes(size), size, others)
    print("the slow one got all of it")


def connected(way, address):
    """The errno that a connect ends with, 0 for none."""
    with socket.socket() as client:
        if way == "blocking":
            return client.connect_ex(address)
        if way == "with timeout":
            client.settimeout(20)
            return client.connect_ex(address)
        client.setblocking(False)
        code = client.connect_ex(address)
        if code != errno.EINPROGRESS:
            return code
        select.select([], [client], [], 20)
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def mixed(count, times):
    """Threads that connect in turn to who accepts and who refuses, in every way; what each way ended with."""
    addresses = {host: (socket.gethostbyname(host), 80) for host in ("backend", "refuse")}
    kinds = [(host, way) for host in addresses for way in ("blocking", "by select", "with timeout")]
    ends = {kind: set() for kind in kinds}

    def connect(first):
        for number in range(first, first + times):
            host, way = kinds[number % len(kinds)]
            ends[host, way].add(connected(way, addresses[host]))

    threads = [threading.Thread(target=connect, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (host, way), codes in ends.items():
        print(host, way, *sorted(errno.errorcode.get(code, str(code)) for code in codes))


match sys.argv[1:]:
    case ["sequential", count]:
        sequential(int(count))
    case ["concurrent", count]:
        at_once(int(count))
    case ["many", count]:
        many(int(count))
    case ["mixed", count, times]:
        mixed(int(count), int(times))
    case ["down", size]:
        down(int(size))
    case ["up", size]:
        up(int(size))
    case ["echo", count, size]:
        echo(int(count), int(size))
    case ["half-close"]:
        half_close()
    case ["listen"]:
        listen()
    case ["slow-reader", size]:
        slow_reader(int(size))
    case other:
        sys.exit(f"unknown: {other}")
