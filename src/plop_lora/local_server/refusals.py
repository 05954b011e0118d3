"""Why a request gets no answer, as it is told in the form of OpenAI's API."""

from __future__ import annotations

from dataclasses import dataclass

_TYPES = {401: "authentication_error", 500: "server_error", 503: "server_error"}


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that gets no answer. It never leaves the server: it becomes its reply.

    Attributes:
        status: HTTP status of the reply.
        message: What is wrong, and what is allowed.
        parameter: Name of the parameter of the request that is at fault, if one is.
        code: Code by which a program recognises the fault.
        retry_after: Seconds after which the request may succeed, if that is known.
    """

    status: int
    message: str
    parameter: str | None = None
    code: str | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def body(self) -> dict[str, object]:
        """The reply, as JSON values."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply beside those of every reply."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
