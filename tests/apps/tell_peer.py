"""An HTTP service on ADDRESS and any port, which it prints, that tells each client its address."""

import http.server
import sys


class Teller(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = f"peer={self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


with http.server.ThreadingHTTPServer((sys.argv[1], 0), Teller) as server:
    print(server.server_port)
    server.serve_forever()
