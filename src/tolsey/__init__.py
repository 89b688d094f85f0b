"""Tolsey: a market for training in which money moves only for work that anybody can run again.

The public names, loaded when first used: `import tolsey` needs no torch and takes milliseconds.

    Market       buy, follow, fetch and audit (tolsey.client.market)
    exact        plain PyTorch code with the same bits on every machine; needs torch (tolsey.runtime.exact_mode)
    Job, adamw, lion, sgd, constant, cosine, text_file, arrays   describe a job; needs torch (tolsey.runtime.author)
    errors       the tree of everything that is raised on purpose
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tolsey import errors as errors
    from tolsey.client.market import AsyncMarket as AsyncMarket
    from tolsey.client.market import Market as Market
    from tolsey.runtime.author import Job as Job
    from tolsey.runtime.author import adamw as adamw
    from tolsey.runtime.author import arrays as arrays
    from tolsey.runtime.author import constant as constant
    from tolsey.runtime.author import cosine as cosine
    from tolsey.runtime.author import lion as lion
    from tolsey.runtime.author import sgd as sgd
    from tolsey.runtime.author import text_file as text_file
    from tolsey.runtime.exact_mode import exact as exact

_HOMES = {
    "Market": "tolsey.client.market",
    "AsyncMarket": "tolsey.client.market",
    "exact": "tolsey.runtime.exact_mode",
    **dict.fromkeys(
        ("Job", "adamw", "arrays", "constant", "cosine", "lion", "sgd", "text_file"), "tolsey.runtime.author"
    ),
}
__all__ = [
    "AsyncMarket", "Job", "Market", "__version__", "adamw", "arrays", "constant", "cosine", "errors", "exact", "lion",
    "sgd", "text_file",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loads a public name from its room (PEP 562)."""
    if name == "errors":
        return import_module("tolsey.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'tolsey' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
