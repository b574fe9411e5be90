"""Who talks to whom, and how: application entities, the callers that are let in, and TLS."""

import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pneumo_hf.errors import InputError

TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # printable ASCII but the backslash
MOST_FILMS = 5000  # that may wait
HANDSHAKE = 30.0  # seconds without a word, after which a connection is ended
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Peer:
    """An application entity that answers are sent to."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Parse `AE@host:port`.

        >>> Peer.parse("ORTHANC@127.0.0.1:4242")
        Peer(title='ORTHANC', host='127.0.0.1', port=4242)

        Raises:
            InputError: it is something else.
        """
        match = re.fullmatch(r"([^@]+)@(.+):(\d{1,5})", text)
        if not match or not 0 < int(match[3]) < 2**16:
            raise InputError(f"--send_to is AE@host:port, not {text}")
        return cls(title(match[1]), match[2].strip("[]"), int(match[3]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def title(text: str) -> str:
    """Return an AE title as it is compared, without the spaces around it.

    Raises:
        InputError: it is none.
    """
    if not text.strip() or not TITLE.fullmatch(text.strip()):
        raise InputError(f"an AE title has 1 to 16 ASCII characters, unlike {text!r}")
    return text.strip()


class Callers:
    """The application entities that are let in: each by its AE title, from its address.

    Args:
        texts: `AE@address` each, an address, a network (10.1.2.0/24) or a host's name.

    Raises:
        InputError: it is something else, or no address is known for the name.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = list(texts)
        self.known = [(name, network) for text in texts for name, network in _caller(text)]

    def __contains__(self, caller: tuple[str, str]) -> bool:
        """Return whether an AE title and an address are those of one that is let in."""
        name, address = caller[0].strip(), ipaddress.ip_address(caller[1])
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(name == known and plain in network for known, network in self.known)


def _caller(text: str) -> list[tuple[str, Network]]:
    name, at, address = text.partition("@")
    if not at or not address:
        raise InputError(f"a caller is AE@address, not {text}")
    try:
        return [(title(name), ipaddress.ip_network(address, strict=False))]
    except ValueError:
        pass
    try:
        found = {info[4][0] for info in socket.getaddrinfo(address, None)}
    except OSError as error:
        raise InputError(f"no address is known for {address}") from error
    return [(title(name), ipaddress.ip_network(ip)) for ip in sorted(map(str, found))]


@dataclass(frozen=True)
class Tls:
    """TLS in both directions: every side shows a certificate that the authority has signed."""

    certificate: Path
    key: Path
    authority: Path

    def context(self, server: bool) -> ssl.SSLContext:
        """Make the context of a server or a client.

        Raises:
            InputError: a file is missing or damaged.
        """
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER) if server else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.authority)
            context.load_cert_chain(self.certificate, self.key, password=partial(_no_password, self.key))
        except OSError as error:  # ssl.SSLError is one
            raise InputError(f"--tls: the certificate, its key or the authority cannot be read ({error})") from error
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class _ServerContext(ssl.SSLContext):
    """Leaves the handshake to the thread of the connection: one that stays silent would hold up all others."""

    def wrap_socket(self, sock, *args, **options):
        sock.settimeout(HANDSHAKE)
        return super().wrap_socket(sock, *args, **{**options, "do_handshake_on_connect": False})


def _no_password(key: Path) -> str:
    raise InputError(f"{key} asks for a password, and a node that starts by itself has nobody to ask")


@dataclass(frozen=True)
class Settings:
    """How a node is reached, whom it answers, and where films wait.

    Args:
        most: films that may wait. dry_run: score and log, and send nothing.
    """

    title: str
    address: tuple[str, int]
    send_to: Peer
    callers: Callers
    folder: Path
    tls: Tls | None = None
    dry_run: bool = False
    most: int = MOST_FILMS
