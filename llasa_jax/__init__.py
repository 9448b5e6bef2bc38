"""Llasa in JAX: one Llama decoder over text and speech, an FSQ codec, and verified search.

`load` gives a `Speaker`, which says, searches, encodes and decodes (docs/api.md). Importing the
package imports none of what those need.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llasa_jax.api import Heard, Search, Sound, Speaker, load

__version__ = "0.1.0"
__all__ = ["Heard", "Search", "Sound", "Speaker", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llasa_jax import api

    return getattr(api, name)
