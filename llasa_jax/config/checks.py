"""The one way to refuse a setting."""

from llasa_jax.errors import UserError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
