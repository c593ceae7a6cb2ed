"""The ports of a local cloud, and the sockets that hold them."""

import dataclasses
import errno
import socket

from local.program import ProgramError

PAGE_PORT = 8120


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where the local cloud listens on 127.0.0.1; 0 lets the system choose."""

    tasks_grpc: int
    tasks_rest: int
    """Serves Cloud Tasks over REST, and the issuer."""
    service: int
    shop: int = 0
    """The web app; 0 too where the handler has no database."""

    @classmethod
    def from_first(cls, port: int) -> "Ports":
        """Returns four consecutive ports, or four of the system's choice if `port` is 0."""
        return cls(port, port + 1, port + 2, port + 3) if port else cls(0, 0, 0)


class PortTakenError(Exception):
    """A port that the local cloud needs is in use."""

    def __init__(self, port: int, what: str) -> None:
        super().__init__(
            f"port {port}, for {what}, is in use: end what uses it, or start with another --port and another --state"
        )


def listen(port: int, what: str, host: str = "127.0.0.1") -> socket.socket:
    """Binds a socket. Raises PortTakenError, or ProgramError if `host` is not an address of this machine."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # a port that is only bound could be taken by another process
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(port, what) from None
        raise ProgramError(
            f"{what} cannot listen on {host}: {error.strerror}; is it an address of this machine?"
        ) from None
    return listener


def listen_for_page() -> socket.socket:
    """The page's socket, on PAGE_PORT unless something else is there."""
    try:
        return listen(PAGE_PORT, "the page")
    except PortTakenError:
        return listen(0, "the page")
