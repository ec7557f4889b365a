"""HTTP clients of Python, each asking the service `backend` who it is."""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import urllib.request

URL = "http://backend/"
CURL = ["/usr/bin/curl", "-sS", URL]


def by_urllib():
    with urllib.request.urlopen(URL, timeout=20) as answer:
        return answer.read().decode()


async def by_asyncio():
    reader, writer = await asyncio.open_connection("backend", 80)
    writer.write(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer


def by_requests(_=None):
    import requests

    return requests.get(URL, timeout=20).text


async def by_aiohttp(count):
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def one():
            async with session.get(URL) as answer:
                return await answer.text()

        answers = await asyncio.gather(*(one() for _ in range(count)))
        return " ".join({first_line(answer) for answer in answers})


def first_line(text):
    return text.splitlines()[0]


def threads(count):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(by_requests, range(count)))
    assert {first_line(answer) for answer in answers} == {"service=backend"}, answers
    print(len(answers), "answers, all from backend")


def children():
    print("subprocess", first_line(subprocess.check_output(CURL, text=True)))
    bare = subprocess.check_output(CURL, text=True, env={}, close_fds=True)
    print("close_fds and no environment", first_line(bare))
    sys.stdout.flush()
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.write(writes, by_urllib().encode())
        os._exit(0)
    os.close(writes)
    print("fork", first_line(os.fdopen(reads).read()))
    os.wait()
    print("os.system", os.system("curl -sS http://backend/ >/dev/null"))


match sys.argv[1]:
    case "urllib":
        print(by_urllib())
    case "asyncio":
        print(asyncio.run(by_asyncio()))
    case "requests":
        print(by_requests())
    case "aiohttp":
        print(asyncio.run(by_aiohttp(20)))
    case "uvloop":
        import uvloop

        print(uvloop.run(by_aiohttp(20)))
        print(first_line(uvloop.run(by_asyncio()).split("\r\n\r\n")[1]))
    case "threads":
        threads(int(sys.argv[2]))
    case "children":
        children()
