"""What can go wrong in the model and its files. No I/O.

RandyGPTError
├── InvalidModelFile       a file that belongs to a model (JSON, vocabulary, text) is wrong
│   └── InvalidCheckpoint      a checkpoint's header, size or numbers are wrong
├── CallerError            an argument or a setting is wrong
│   └── InvalidSetting         a settings file is wrong on some line
└── Diverged               training left the finite numbers
"""


class RandyGPTError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidModelFile(RandyGPTError):
    """A file that belongs to a model (JSON, vocabulary, text) is wrong."""


class InvalidCheckpoint(InvalidModelFile):
    """A checkpoint's header, size or numbers are wrong."""


class CallerError(RandyGPTError):
    """An argument or a setting is wrong."""


class InvalidSetting(CallerError):
    """A settings file is wrong on some line; `key` is empty where none can be told."""

    def __init__(self, file: object, line: int, key: str, reason: str) -> None:
        super().__init__(": ".join(filter(None, (f"{file}:{line}", key, reason))))
        self.file = str(file)
        self.line = line
        self.key = key
        self.reason = reason


class Diverged(RandyGPTError):
    """Training left the finite numbers."""
