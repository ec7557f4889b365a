# Clients of an echo that answers when its client has ended its side: HOST PORT MANY MIB. One writes slowly, one moves MIB
# mebibytes there and back, and MANY are connected all at once; each gets back what it sent.
import asyncio
import hashlib
import sys

host, port, many, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
BLOCK = bytes(range(251)) * 1044


async def echo(blocks, connected=None):
    reader, writer = await asyncio.open_connection(host, port)
    if connected:
        await connected()
    sent = hashlib.sha256(b"laptop heard ")
    for block, pause in blocks:
        sent.update(block)
        writer.write(block)
        await writer.drain()
        await asyncio.sleep(pause)
    writer.write_eof()
    heard = hashlib.sha256()
    while part := await reader.read(1 << 18):
        heard.update(part)
    writer.close()
    return heard.digest() == sent.digest()


async def main():
    open_ones = 0
    all_open = asyncio.Event()

    async def connected():
        nonlocal open_ones
        open_ones += 1
        if open_ones == many:
            all_open.set()
        await all_open.wait()

    slow = asyncio.create_task(echo([(b"x", 0.05)] * 40))
    large = asyncio.create_task(echo([(BLOCK, 0)] * (size * (1 << 20) // len(BLOCK))))
    small = [asyncio.create_task(echo([(b"client %d" % number, 0)], connected)) for number in range(many)]
    print(sum(await asyncio.gather(*small)), "at once")
    print("slow", await slow, "large", await large)


asyncio.run(main())
