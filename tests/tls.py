"""TLS before a server that has none, and the certificate for it."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


def make_certificate(folder: Path) -> Path:
    """Write a self-signed certificate for localhost, its key beside it."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        capture_output=True,
        check=True,
    )
    return folder / "certificate.pem"


@dataclass
class Front:
    """Where it listens, and how many connections it has had that were encrypted."""

    port: int = 0
    encrypted: int = 0


@asynccontextmanager
async def tls_front(certificate: Path, port: int, *, postgresql: bool) -> AsyncIterator[Front]:
    """Take TLS connections and pass them on to a port, PostgreSQL's after its SSLRequest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    front = Front()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if postgresql and await reader.readexactly(8) != SSL_REQUEST:
                return writer.close()
            if postgresql:
                writer.write(b"S")
                await writer.start_tls(context)
            front.encrypted += 1
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
        return writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgresql else context)
    front.port = server.sockets[0].getsockname()[1]
    async with server:
        yield front


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
