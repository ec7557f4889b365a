# Serves ports at which the kubelet asks: NAME CERTIFICATE http=PORT https=PORT tcp=PORT. Says its name to everybody, and prints who
# came to what.
import http.server
import socket
import ssl
import sys
import threading

name, certificate, *ports = sys.argv[1:]


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        is_probe = self.headers.get("User-Agent", "").startswith("kube-probe/")
        print(kind, "probe" if is_probe else "client", flush=True)
        body = f"{name} {kind}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def accept(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = listener.accept()
        print("tcp client", flush=True)
        connection.close()


threads = []
for argument in ports:
    kind, port = argument.split("=")
    if kind == "tcp":
        threads.append(threading.Thread(target=accept, args=(int(port),), daemon=True))
        continue
    server = Server(("::", int(port)), Answers)
    if kind == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # Each handshake in the thread of its connection.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threads.append(threading.Thread(target=server.serve_forever, daemon=True))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
