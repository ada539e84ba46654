"""The secret key: where it is looked for, and how it is put on disk. Does disk I/O; asks nobody, prints nothing.

Looked for, in this order: `$CREDENTIALS_DIRECTORY/nsec`, which systemd fills; the file that the user names; `keys/nsec`
below the home; `$RANDYGPT_NSEC`, with a warning. Each has an nsec, or an ncryptsec (NIP-49) to be opened with a
password. There is no other: without a key nothing is signed.
"""

import errno
import functools
import os
import resource
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client import durable
from relay_client.errors import InvalidKey, RelayRefused
from relay_client.event import Signer
from relay_client.keys import SecretKey

Password = Callable[[str], str]  # from what is to be opened to its password; may raise CallerError

MAX_SECRET = 4096  # bytes that are read of a file with a secret
_VARIABLE = "RANDYGPT_NSEC"
_taken_from_environment = ""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, where it was, and what its owner should know about that."""

    key: SecretKey
    origin: str
    warnings: tuple[str, ...]


def find(home: Home, file: Path | None, password: Password) -> FoundKey:
    """The key to sign with; from then on this process leaves no core dump, and its children do not inherit the key.

    Raises CallerError if there is none, or if its file is a link, somebody else's, or open to others; InvalidKey for
    what is no key, or a wrong password; OSError.
    """
    no_core_dumps()
    variable, credential = _environment_key(), _credential()
    warnings = []
    if variable:
        warnings.append(f"{_VARIABLE}: a key in the environment can be read by whatever else runs as this user")
    if credential:
        origin, raw = str(credential), read_secret(credential)
        if file and file != credential:
            warnings.append(f"--key-file {file} is not used: the key is {origin}")
    elif file or home.key_path.exists():
        origin, raw = str(file or home.key_path), read_secret(file or home.key_path)
    elif variable:
        origin, raw = _VARIABLE, variable
    else:
        raise CallerError(f"no key at {home.key_path}; make one: randygpt keys new")
    if variable and origin != _VARIABLE:
        warnings.append(f"{_VARIABLE} is not used: the key is {origin}")
    return FoundKey(unlock(raw, origin, password), origin, tuple(warnings))


def _environment_key() -> str:
    """Return `$RANDYGPT_NSEC` and take it out of the environment; a later call in this process returns it again."""
    global _taken_from_environment  # noqa: PLW0603 (one environment, one memory of it)
    _taken_from_environment = os.environ.pop(_VARIABLE, "") or _taken_from_environment
    return _taken_from_environment


def signer(home: Home) -> Signer | None:
    """What says who is here to relays that insist; None where there is no key. The key is read only for them.

    A key that needs a password cannot be used for that: nobody is asked in the middle of a transfer.
    """
    return _LazyKey(home) if home.key_path.exists() or _credential() else None


class _LazyKey:
    """The user's key, read when it is first needed. One that cannot be used is as none to the relay: RelayRefused."""

    def __init__(self, home: Home) -> None:
        self._home = home

    @functools.cached_property
    def _key(self) -> SecretKey:
        try:
            return find(self._home, None, _ask_nobody).key
        except (CallerError, OSError) as error:
            raise RelayRefused(f"cannot say who is here: {error}") from None

    @property
    def pubkey(self) -> bytes:
        return self._key.pubkey

    def sign(self, digest: bytes) -> bytes:
        return self._key.sign(digest)


def _ask_nobody(origin: str) -> str:
    raise CallerError(f"{origin} is locked with a password")


def unlock(raw_secret: str, origin: str, password: Password) -> SecretKey:
    """The key in an nsec or an ncryptsec; raises InvalidKey, which names the origin and repeats nothing."""
    try:
        if is_locked(raw_secret):
            return SecretKey.from_ncryptsec(raw_secret, password(origin))
        return SecretKey.from_nsec(raw_secret)
    except InvalidKey as error:
        raise InvalidKey(f"{origin}: {error}") from None


def is_locked(raw_secret: str) -> bool:
    """Whether a password is needed."""
    return raw_secret.strip().lower().startswith("ncryptsec1")


def keep(home: Home, secret: str) -> None:
    """Make an nsec or ncryptsec the user's key; raises CallerError if there is one, and OSError."""
    durable.make_directory(home.folder)
    durable.make_directory(home.key_path.parent, mode=0o700)
    write_secret(home.key_path, secret, "there is a key already")


def write_secret(path: Path, secret: str, taken: str) -> None:
    """A new file that its owner alone may read; raises CallerError (`taken`) if something is there, and OSError."""
    try:
        durable.create(path, f"{secret}\n".encode(), mode=durable.SECRET)
    except FileExistsError:
        raise CallerError(f"{taken}: {path}") from None


def read_secret(path: Path) -> str:
    """What stands in a file with a key or a password; raises CallerError if others may have read it, and OSError.

    A credential is given by systemd to the service alone: the file is ours, or root's with an access list, whose mask
    shows as bits of the group.
    """
    is_credential = path.parent == _credentials()
    owners = {os.geteuid(), 0} if is_credential else {os.geteuid()}
    forbidden = stat.S_IRWXO if is_credential else stat.S_IRWXG | stat.S_IRWXO
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CallerError(f"{path}: a file with a secret may not be a symbolic link") from None
        raise
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in owners:
            raise CallerError(f"{path}: a file with a secret must be a plain file of your own")
        if facts.st_mode & forbidden:
            raise CallerError(f"{path}: others may read this secret; run: chmod 600 {path}")
        return os.read(descriptor, MAX_SECRET).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def no_core_dumps() -> None:
    """From here on, a crash of this process leaves no image of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _credentials() -> Path | None:
    """Where systemd puts the credentials of this service."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def _credential() -> Path | None:
    folder = _credentials()
    return folder / "nsec" if folder and (folder / "nsec").exists() else None
