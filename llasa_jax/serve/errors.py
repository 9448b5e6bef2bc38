"""Errors as clients of OpenAI's API expect them: {"error": {message, type, param, code}}."""

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that cannot be served.

    Args:
        param: the field that is wrong, if one is.
        code: a short name that programs can look at.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    @property
    def body(self) -> dict:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        message = str(self).encode("ascii", "backslashreplace").decode()  # lone surrogates, too
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)
