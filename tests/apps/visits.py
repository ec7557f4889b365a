# Asks for a page again and again, by so many at once, each time by a new connection: HOST PORT AT-ONCE. Says after every
# 100 how many were answered by the laptop, by the app, and by nobody; ends when its standard input does.
import asyncio
import sys

host, port, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
counted = {"laptop": 0, "app": 0, "failed": 0}
ended = asyncio.Event()


async def visit():
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    except (OSError, asyncio.TimeoutError) as error:
        return "failed", repr(error)
    body = answer.partition(b"\r\n\r\n")[2]
    who = "laptop" if body.startswith(b"laptop ") else "app" if body.startswith(b"service=") else "failed"
    return who, answer


async def visitor():
    while not ended.is_set():
        who, answer = await visit()
        counted[who] += 1
        if who == "failed":
            print(f"failure {answer!r}", file=sys.stderr, flush=True)
        if sum(counted.values()) % 100 == 0:
            print(*counted.values(), flush=True)


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    visitors = [asyncio.create_task(visitor()) for _ in range(at_once)]
    await reader.read()
    ended.set()
    await asyncio.gather(*visitors)
    print(*counted.values(), flush=True)


asyncio.run(main())
