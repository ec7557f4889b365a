"""An HTTP/3 client: fetches `https://quic/bytes/N` and compares each byte; says how many there were."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.status = None
        self.body = bytearray()
        self.whole = self._loop.create_future()

    def quic_event_received(self, event):
        for news in self.http.handle_event(event):
            if isinstance(news, HeadersReceived):
                self.status = dict(news.headers)[b":status"].decode()
            elif isinstance(news, DataReceived):
                self.body += news.data
            if getattr(news, "stream_ended", False):
                self.whole.set_result(None)

    async def get(self, authority, path):
        stream = self._quic.get_next_available_stream_id()
        names = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in names.items()]
        self.http.send_headers(stream, headers, end_stream=True)
        self.transmit()
        await self.whole


async def main(host, count):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="quic", verify_mode=ssl.CERT_NONE
    )
    async with connect(host, 443, configuration=configuration, create_protocol=Client) as client:
        await client.get("quic", f"/bytes/{count}")
        right = bytes(i % 251 for i in range(count))
        print(client.status, len(client.body), "as sent" if client.body == right else "changed on the way")


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
