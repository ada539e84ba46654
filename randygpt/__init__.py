"""Train a small GPT, share it as signed nostr events, serve it.

    import randygpt
    model = randygpt.load("checkpoint_best.bin")
    print(model.generate("Once upon a time", max_tokens=100, seed=1))

Importing this package imports no torch; `load` does.
"""

from os import PathLike

TYPE_CHECKING = (
    False  # `python -m randygpt` imports this with the current folder on the path, which may have a typing.py
)
if TYPE_CHECKING:
    from randygpt.language_model import LanguageModel

__all__ = ["load"]
__version__ = "0.1.0"


def load(path: str | PathLike[str]) -> "LanguageModel":
    """The model in a checkpoint file, or in the folder of a fetched release.

    Raises `randygpt.errors.InvalidCheckpoint` or `InvalidModelFile` for a file that is wrong, OSError for the disk.
    """
    from randygpt.language_model import load as load_model  # noqa: PLC0415 (torch takes two seconds)

    return load_model(path)
