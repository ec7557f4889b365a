"""Talks to ADDRESS PORT pairs, by TCP and UDP, and tells what came of it."""

import socket
import sys

words = sys.argv[1:]
for address, port in zip(words[::2], map(int, words[1::2])):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.settimeout(20)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(20)
    for name, client in (("tcp", tcp), ("udp", udp)):
        try:
            client.connect((address, port))
            client.send(b"hello")
            print(name, client.recv(99).decode(), client.getpeername()[:2] == (address, port))
        except OSError as error:
            print(name, error.strerror)
    # Once more without connect(), so that it is the answer that says who sent it.
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(20)
    udp.setsockopt(*((socket.IPPROTO_IP, 11) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 25)), 1)
    udp.sendto(b"hello", (address, port))
    try:
        answer, sender = udp.recvfrom(99)
        print("udp", answer.decode(), sender[:2] == (address, port))
    except OSError as error:
        print("udp", error.strerror)
