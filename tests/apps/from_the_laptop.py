# Serves TCP ports by HTTP, and UDP ones (with a "u" in front), for ever.
import http.server, socket, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"from the laptop\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
def answer(port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", port))
    while True:
        _, peer = server.recvfrom(2048)
        server.sendto(b"from the laptop", peer)
threads = []
for port in sys.argv[1:]:
    if port.startswith("u"):
        serve = lambda port=int(port[1:]): answer(port)
    else:
        serve = http.server.ThreadingHTTPServer(("", int(port)), Handler).serve_forever
    threads.append(threading.Thread(target=serve))
    threads[-1].start()
