# HTTP/1 as it is seldom spoken, from both ends, byte for byte: `serve WHO PORT`, and `ask HOST PORT USER`, which prints what
# became of each kind of request of that user, the same whoever answers but for the name in brackets.
import hashlib
import socket
import sys
import threading
import time

MANY = 8 << 20


class Peer:
    """A connection that is read by lines and by lengths."""

    def __init__(self, connection):
        self.connection = connection
        self.heard = b""

    def more(self):
        part = self.connection.recv(1 << 18)
        self.heard += part
        return part

    def until(self, mark):
        while mark not in self.heard:
            if not self.more():
                return None
        found, _, self.heard = self.heard.partition(mark)
        return found

    def exactly(self, size):
        digest, first = hashlib.sha256(), b""
        while size:
            if not self.heard and not self.more():
                return b"cut off"
            part, self.heard = self.heard[:size], self.heard[size:]
            digest.update(part)
            first += part[: 200 - len(first)]
            size -= len(part)
        return first if len(first) < 200 else digest.hexdigest().encode()

    def head(self):
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None, {}
        first, *lines = head.split(b"\r\n")
        fields = (line.split(b":", 1) for line in lines)
        return first, {name.lower(): value.strip() for name, value in fields}

    def body(self, fields, to_the_end=False):
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            body = b""
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                body += self.exactly(size)
                self.until(b"\r\n")
            while line := self.until(b"\r\n"):
                body += b" trailer " + line
            return body
        if b"content-length" in fields:
            return self.exactly(int(fields[b"content-length"]))
        if to_the_end:
            while self.more():
                pass
            return self.heard
        return b""


def answer(connection, who):
    peer = Peer(connection)
    say = connection.sendall
    while True:
        first, fields = peer.head()
        if first is None:
            break
        method, path, version = first.split(b" ")
        if path == b"/reject":
            say(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            break
        if fields.get(b"expect") == b"100-continue":
            say(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"[%s] %s %s" % (who, path, peer.body(fields))
        length = b"Content-Length: %d\r\n" % len(body)
        if version == b"HTTP/1.0":
            say(b"HTTP/1.0 200 Fine\r\n\r\n" + body)
            break
        if path == b"/204":
            say(b"HTTP/1.1 204 No Content\r\nX-Who: [%s]\r\n\r\n" % who)
        elif path == b"/304":
            say(b'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: "x"\r\nX-Who: [%s]\r\n\r\n' % who)
        elif path == b"/hints":
            say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n" + length + b"\r\n" + body)
        elif path == b"/chunked":
            say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            for letter in body:
                say(b"1;odd=yes\r\n%c\r\n" % letter)
            say(b"0\r\nX-Sum: %d\r\n\r\n" % len(path))
        elif path == b"/close":
            say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
            break
        elif path == b"/many":
            say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY)
            say(bytes(range(256)) * (MANY // 256))
        elif method == b"HEAD":
            say(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        else:
            say(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + body)
    connection.close()


def serve(who, port):
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, who.encode()), daemon=True).start()


def ask(host, port, user):
    field = f"x-user: {user}\r\n".encode()
    host_field = b"Host: shop\r\n"

    def connected():
        return socket.create_connection((host, int(port)), timeout=30)

    def told(peer, kind, method=b"GET", ends=False):
        first, fields = peer.head()
        while first and first.split(b" ")[1] in (b"100", b"103"):
            print(kind, first.decode(), fields.get(b"link", b"").decode())
            first, fields = peer.head()
        if first is None:
            return print(kind, "nothing")
        bare = method == b"HEAD" or first.split(b" ")[1] in (b"204", b"304")
        body = b"" if bare else peer.body(fields, ends)
        kept = [name for name in (b"etag", b"x-who", b"transfer-encoding") if name in fields]
        shown = [name + b"=" + fields[name] for name in kept] + [b"content-length"] * (bare and b"content-length" in fields)
        print(kind, first.decode(), b" ".join(shown).decode(), body.decode())

    # One connection after another of these, and all but those that end by one.
    with connected() as one:
        peer = Peer(one)
        for method, path in [(b"HEAD", b"/head"), (b"GET", b"/204"), (b"GET", b"/304"), (b"GET", b"/hints"), (b"GET", b"/chunked"),
                             (b"DELETE", b"/a?b=%20"), (b"OPTIONS", b"*"), (b"GET", b"http://shop/absolute"), (b"GET", b"/many")]:
            one.sendall(method + b" " + path + b" HTTP/1.1\r\n" + host_field + field + b"\r\n")
            told(peer, f"{method.decode()} {path.decode()}", method)
        chunks = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in (1, 10, 100))
        one.sendall(b"PUT /body HTTP/1.1\r\n" + host_field + field + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Last: yes\r\n\r\n")
        told(peer, "chunked request")
        one.sendall(b"POST /body HTTP/1.1\r\n" + host_field + field + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert peer.head()[0] == b"HTTP/1.1 100 Continue"
        one.sendall(b"later")
        told(peer, "expected")
        for letter in b"GET /slowly HTTP/1.1\r\n" + host_field + field + b"\r\n":
            one.sendall(b"%c" % letter)
            time.sleep(0.005)
        told(peer, "byte by byte")
        one.sendall(b"PUT /upload HTTP/1.1\r\n" + host_field + field + b"Content-Length: %d\r\n\r\n" % MANY)
        one.sendall(bytes(range(255, -1, -1)) * (MANY // 256))
        told(peer, "upload")
        one.sendall(b"GET /close HTTP/1.1\r\n" + host_field + field + b"\r\n")
        told(peer, "close", ends=True)
        print("ends", peer.more() == b"")
    with connected() as one:
        one.sendall(b"POST /reject HTTP/1.1\r\n" + host_field + field + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        told(Peer(one), "rejected")
    with connected() as one:
        one.sendall(b"GET /old HTTP/1.0\r\n" + field + b"\r\n")
        told(Peer(one), "HTTP/1.0", ends=True)
    with connected() as one:
        one.sendall(b"GET /half HTTP/1.1\r\n" + host_field + field + b"\r\n")
        one.shutdown(socket.SHUT_WR)
        told(Peer(one), "half-closed")
    # Requests of two people, all sent before the first answer is read.
    with connected() as one:
        users = [user, "nobody", user, user, "nobody"]
        for number, name in enumerate(users):
            one.sendall(b"GET /%d HTTP/1.1\r\n" % number + host_field + f"x-user: {name}\r\n\r\n".encode())
        peer = Peer(one)
        for number, name in enumerate(users):
            told(peer, f"pipelined for {'nobody' if name == 'nobody' else 'them'}")


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
