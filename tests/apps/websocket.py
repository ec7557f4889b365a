# A client of a WebSocket: HOST PORT. Both sides speak when they like after the 101.
import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
connection.sendall(
    b"GET / HTTP/1.1\r\nHost: web\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
answer = b""
while not answer.endswith(b"\x81\x06laptop"):
    answer += connection.recv(4096)
assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, answer
connection.sendall(b"\x81\x05hello")
echoed = b""
while len(echoed) < 7:
    echoed += connection.recv(4096)
print(answer.split()[1].decode(), "laptop", echoed[2:].decode())
