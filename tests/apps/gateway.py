# A gateway before an API server that lets no upgrades through but those to WebSockets: URL CA CERTIFICATE KEY. It has its own
# identity there. Prints its port, and then what each client wanted to upgrade to.
import socket
import ssl
import sys
import threading
import urllib.parse

url, authority, certificate, key = sys.argv[1:]
server = urllib.parse.urlsplit(url)
context = ssl.create_default_context(cafile=authority)
context.load_cert_chain(certificate, key)


def pump(source, sink):
    try:
        while part := source.recv(1 << 16):
            sink.sendall(part)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client):
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(1 << 16)
        if not part:
            return client.close()
        head += part
    lines, _, rest = head.partition(b"\r\n\r\n")
    first, *fields = lines.split(b"\r\n")
    wanted = [field.split(b":", 1)[1].strip().decode() for field in fields if field.lower().startswith(b"upgrade:")]
    if wanted:
        print(*wanted, flush=True)
    if wanted and wanted[0].lower() != "websocket":
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return client.close()
    if not wanted:
        # One request a connection, so that none is overlooked.
        fields = [field for field in fields if not field.lower().startswith(b"connection:")] + [b"Connection: close"]
    far = context.wrap_socket(socket.create_connection((server.hostname, server.port)), server_hostname=server.hostname)
    far.sendall(b"\r\n".join([first, *fields, b"", b""]) + rest)
    threading.Thread(target=pump, args=(client, far), daemon=True).start()
    pump(far, client)


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
