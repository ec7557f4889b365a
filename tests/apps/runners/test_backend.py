"""What pytest finds: each test asks the service in another way."""

import asyncio
import multiprocessing
import subprocess
import threading
import urllib.request

import pytest

URL = "http://backend/"


def fetch():
    with urllib.request.urlopen(URL, timeout=20) as answer:
        return answer.read().decode()


@pytest.fixture(scope="session")
def answer():
    return fetch()


def test_fixture(answer):
    assert "service=backend" in answer


@pytest.mark.parametrize("number", range(6))
def test_many(number):
    assert "service=backend" in fetch()


def test_subprocess():
    assert "service=backend" in subprocess.check_output(["curl", "-sS", URL], text=True)


def test_multiprocessing():
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert all("service=backend" in answer for answer in pool.starmap(fetch, [()] * 4))


def test_thread_that_forks():
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(subprocess.call(["curl", "-sSo", "/dev/null", URL])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 8


def test_event_loop():
    async def ask():
        reader, writer = await asyncio.open_connection("backend", 80)
        writer.write(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
        return await reader.read()

    assert b"service=backend" in asyncio.run(ask())


def test_errors_come_through():
    with pytest.raises(ConnectionRefusedError):
        raise pytest.raises(OSError, urllib.request.urlopen, "http://refuse/", timeout=20).value.reason
