"""COUNT connections of one event loop at once, HANGING of them to a black hole: who answers, and how long the loop stalls.

A ticker that wants to run every 5 ms measures by how much it is late: that is what every other task would feel.
"""

import asyncio
import sys
import time

TICK = 0.005


async def ticker(late):
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK)
        late.append(time.monotonic() - before - TICK)


async def ask(host):
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, 80)
            writer.write(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return "answered" if answer.startswith(b"HTTP/1.0 200") else "something else"
    except TimeoutError:
        return "timed out"


async def main(count, hanging):
    loop = asyncio.get_running_loop()
    address = {host: (await loop.getaddrinfo(host, 80))[0][4][0] for host in ("backend", "blackhole")}
    late = []
    ticking = asyncio.create_task(ticker(late))
    hosts = [address["blackhole"]] * hanging + [address["backend"]] * (count - hanging)
    ends = await asyncio.gather(*(ask(host) for host in hosts))
    ticking.cancel()
    for end in sorted(set(ends)):
        print(ends.count(end), end)
    print(f"longest stall: {max(late) * 1000:.1f} ms")


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
