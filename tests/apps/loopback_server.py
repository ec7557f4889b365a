"""Listens on ADDRESS PORT, TCP and UDP, and answers each message with NAME and the peer's address. ADDRESS may be "dual": all
addresses of both families. Port 0 is any; the port is printed. A line on standard input, and it stops; another, and it
listens again. Without such lines it listens for ever."""

import os
import selectors
import socket
import stat
import sys


def listen(address, port):
    wanted = "::" if address == "dual" else address
    family = socket.AF_INET6 if ":" in wanted else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        for one in (tcp, udp):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "dual")
    udp.bind((wanted, port))
    port = udp.getsockname()[1]
    tcp.bind((wanted, port))
    tcp.listen()
    return tcp, udp, port


def serve(tcp, udp, name):
    """Until there is a line on standard input."""
    with selectors.DefaultSelector() as selector:
        # What has no events, as /dev/null, has no lines either.
        for one in (tcp, udp, 0) if stat.S_ISFIFO(os.fstat(0).st_mode) else (tcp, udp):
            selector.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is tcp:
                    client, peer = tcp.accept()
                    with client:
                        if client.recv(99):
                            client.sendall(f"{name} {peer[0]}".encode())
                elif key.fileobj is udp:
                    _, peer = udp.recvfrom(99)
                    udp.sendto(f"{name} {peer[0]}".encode(), peer)
                elif os.read(0, 99):
                    return
                else:
                    selector.unregister(0)


address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
while True:
    tcp, udp, port = listen(address, port)
    print(port, flush=True)
    serve(tcp, udp, name)
    tcp.close()
    udp.close()
    print("closed", flush=True)
    os.read(0, 99)
