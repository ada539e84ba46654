"""Train a small GPT, share it as signed nostr events, serve it.

    import randygpt

    published = randygpt.publish("checkpoint_best.bin", name="shakespeare", relays=["wss://relay.example"])
    fetched = randygpt.fetch(published.nevent)
    print(fetched.load().generate("Once upon a time", max_tokens=100, seed=1))

`search` finds models. `randygpt.aio` has all three as coroutines, and `follow`. Errors are in `randygpt.errors`. Names
are imported when they are first used, so that importing this package is quick. Only `LanguageModel.logits` imports
torch.
"""

from importlib import import_module

TYPE_CHECKING = (
    False  # `python -m randygpt` imports this with the current folder on the path, which may have a typing.py
)
if TYPE_CHECKING:
    from randygpt import aio, errors
    from randygpt.aio import Fetched, ModelInfo, Published
    from randygpt.blocking import fetch, publish, search
    from randygpt.language_model import LanguageModel, load
    from randygpt.model.evaluation import Evaluation

__all__ = [
    "Evaluation",
    "Fetched",
    "LanguageModel",
    "ModelInfo",
    "Published",
    "aio",
    "errors",
    "fetch",
    "load",
    "publish",
    "search",
]
__version__ = "0.1.0"

_MODULES = {
    "Evaluation": "randygpt.model.evaluation",
    "Fetched": "randygpt.aio",
    "LanguageModel": "randygpt.language_model",
    "ModelInfo": "randygpt.aio",
    "Published": "randygpt.aio",
    "fetch": "randygpt.blocking",
    "load": "randygpt.language_model",
    "publish": "randygpt.blocking",
    "search": "randygpt.blocking",
}

if not TYPE_CHECKING:  # else a type checker takes any name for one of this module

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        if name in __all__:
            return import_module(f"randygpt.{name}")
        raise AttributeError(f"module 'randygpt' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
