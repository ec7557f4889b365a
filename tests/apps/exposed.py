# Serves what comes to exposed ports: NAME=PORT..., each http, echo, talker, ws or udp. Says "ready" when all listen, and
# ends by SIGTERM or SIGINT when what it has begun is done.
import base64
import hashlib
import http.server
import select
import signal
import socket
import sys
import threading


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        peer = self.client_address[0].removeprefix("::ffff:")
        body = f"laptop {self.path} {peer}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 256
    daemon_threads = False


def echo(connection):
    # All of it comes back when the peer has ended its side: an end must arrive as one.
    heard = bytearray()
    while got := connection.recv(65536):
        heard += got
    connection.sendall(b"laptop heard " + heard)
    connection.close()


def talk(connection):
    connection.sendall(b"laptop talks first\n")
    while got := connection.recv(65536):
        connection.sendall(got)
    connection.close()


def websocket(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    word = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    connection.sendall(answer + base64.b64encode(word) + b"\r\n\r\n")
    # A server may speak first, and each speaks when it likes.
    connection.sendall(b"\x81\x06laptop")
    while frame := connection.recv(4096):
        connection.sendall(frame)
    connection.close()


def accept(listener, serve):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def listen(port, kind):
    listener = socket.socket(socket.AF_INET6, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    return listener


def answer(datagrams):
    while True:
        datagram, peer = datagrams.recvfrom(65536)
        datagrams.sendto(b"laptop heard " + datagram, peer)


servers = []
for argument in sys.argv[1:]:
    name, port = argument.split("=")
    port = int(port)
    if name == "http":
        servers.append(Server(("::", port), Answers))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,)).start()
    elif name == "udp":
        threading.Thread(target=answer, args=(listen(port, socket.SOCK_DGRAM),), daemon=True).start()
    else:
        listener = listen(port, socket.SOCK_STREAM)
        listener.listen(1024)
        serve = {"echo": echo, "talker": talk, "ws": websocket}[name]
        threading.Thread(target=accept, args=(listener, serve), daemon=True).start()


def end(*_):
    for server in servers:
        threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
for server in servers:
    # After shutdown: no request is begun any more, those that were are answered.
    while not server._BaseServer__is_shut_down.wait(0.1):
        pass
    # What the kernel has accepted already would be reset.
    server.timeout = 0
    while select.select([server], [], [], 0)[0]:
        server.handle_request()
    server.server_close()
if not servers:
    signal.pause()
