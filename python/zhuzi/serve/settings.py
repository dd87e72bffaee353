"""What a server is told: where it listens, how much it takes at once, how answers are drawn by default."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from zhuzi.infer.sampling import Sampling


@dataclass(frozen=True)
class ServeSettings:
    """The settings of `serve_model`.

    Raises:
        ValueError: a number that is too small, or an empty key.
    """

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    port: int = 8000
    """Port; 0 takes a free one."""
    name: str | None = None
    """What requests call the model; by default the name of its folder or file."""
    key: str | None = field(default=None, repr=False)
    """What clients must send as `Authorization: Bearer KEY`; None asks for nothing."""
    parallel: int = 4
    """Answers that grow at the same time, token by token in turn."""
    queue: int = 64
    """Answers that wait for one of these places; beyond them a request gets 429."""
    max_body: int = 1 << 20
    """Bytes of a request, at most; beyond them it gets 413."""
    max_choices: int = 16
    """Answers to one request (`n` times its prompts), at most."""
    stop_seconds: float = 30.0
    """How long answers may go on after SIGTERM."""
    web: bool = False
    """Whether `/` is a chat page."""
    system: str = ""
    """The system prompt that the chat page begins with."""
    history: bool = True
    """Whether the chat page asks each question after those before it, until its user says otherwise."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn where a request does not say."""

    def __post_init__(self) -> None:
        for name, least in (("parallel", 1), ("queue", 0), ("max_body", 1024), ("max_choices", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: want {least} or more, not {getattr(self, name)}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port: want 0 to 65535, not {self.port}")
        if self.key is not None and not self.key.strip():
            raise ValueError("key: is empty; give one, or leave it out")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
