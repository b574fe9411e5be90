"""An object store on loopback that speaks S3 (moto), behind a proxy that breaks connections."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset, as a cable that was pulled looks


class Proxy:
    """Passes TCP on to a port; the next `cuts` answers are cut off in their middle, and while `down` none comes."""

    def __init__(self, port: int):
        self.to, self.cuts, self.down, self.refused, self.cut = port, 0, False, 0, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.listening.accept()
                if self.down:
                    self.refused += 1
                    self._reset(client)
                    continue
                server = socket.create_connection(("127.0.0.1", self.to))
                for source, target, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(source, target, answers), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if answers and (self.down or (self.cuts and len(content) > 1000)):
                    self.cuts, self.cut = max(self.cuts - 1, 0), self.cut + 1
                    target.sendall(content[: len(content) // 2])
                    break
                target.sendall(content)
        for end in (target, source):
            self._reset(end)

    def _reset(self, end: socket.socket) -> None:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Serve an empty bucket `films`, to which s3:// leads; the proxy before it."""
    import boto3
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "loopback")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="films")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # those of an earlier store
    try:
        yield proxy
    finally:
        proxy.listening.close()
        server.stop()
