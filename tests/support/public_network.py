"""The public network, replaced below the code under test: its names lead to TLS servers on this machine."""

import asyncio
import contextlib
import datetime as dt
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PUBLIC, PRIVATE = "8.8.8.8", "127.0.0.1"


def server_context(folder: Path, names: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return the TLS settings of a server with a certificate for these names, which this process trusts from now on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def lead_to(monkeypatch: pytest.MonkeyPatch, addresses: Mapping[str, str], local: tuple[str, int]) -> None:
    """Resolve names to addresses, and connect port 443 of any address to a server on this machine."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: int, **named: int) -> object:
        if host in addresses:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], port))]
        return resolve(host, port, *rest, **named)

    loop = asyncio.SelectorEventLoop
    sock_connect = loop.sock_connect

    async def connect(self: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[str, int]) -> None:
        await sock_connect(self, sock, local if address[1] == 443 else address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(loop, "sock_connect", connect)


@dataclass(kw_only=True)
class WebServer:
    """An HTTPS server on a thread: answers `reply`, raw HTTP, and notes the host and target of each request."""

    reply: bytes = b""
    stalls: bool = False  # keep the connection open without an answer
    asked: list[str] = field(default_factory=list)

    def answer(self, body: bytes | Mapping[str, object], *, status: str = "200 OK", headers: str = "") -> None:
        """Set the reply, as JSON if it is an object."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
        self.reply = head.encode() + data

    def handle(self, stream: socketserver.StreamRequestHandler) -> None:
        lines = list(iter(lambda: stream.rfile.readline().strip(), b""))
        host = next(line.partition(b": ")[2] for line in lines if line.lower().startswith(b"host:"))
        self.asked.append((host + lines[0].split()[1]).decode())
        if self.stalls:
            stream.rfile.read(1)  # until the client goes away
        with contextlib.suppress(OSError):  # the client read enough
            stream.wfile.write(self.reply)


@contextlib.contextmanager
def web_server(context: ssl.SSLContext) -> Iterator[tuple[WebServer, tuple[str, int]]]:
    """Run an HTTPS server, and yield it with its address."""
    web = WebServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            web.handle(self)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            plain, address = super().get_request()
            return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, _request: object, _address: object) -> None:
            """Ignore clients that refuse the certificate or go away."""

    with Server((PRIVATE, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield web, (PRIVATE, server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
