"""Signing key: where the secret key is read from, and how it is stored. Disk I/O; no prompts, no output.

Sources, in this order: `$CREDENTIALS_DIRECTORY/nsec`, provided by systemd; the file that the user names; `keys/nsec`
in the home folder; `$RANDYGPT_NSEC`, with a warning, unless a remote signer is paired (`randygpt.user.signer`). Each
contains an nsec, or an ncryptsec (NIP-49), which needs a password.
"""

import contextlib
import errno
import functools
import hashlib
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
from relay_client.hexadecimal import parse_hex
from relay_client.keys import SecretKey
from relay_client.nip19 import decode_pubkey, encode_npub

Password = Callable[[str], str]  # from the key's origin to its password; may raise CallerError

MAX_SECRET = 4096  # bytes to read of a file with a secret
_KEY_SIZE = 32  # bytes
_OTHERS = {  # by how a text begins
    "nsec1": "",
    "ncryptsec1": "",
    "npub1": "this is a public key (npub); expected the secret key: an nsec or ncryptsec",
    "bunker://": "bunker:// names a remote signer (NIP-46), which keeps the key; pair it with randygpt keys bunker",
}
_SEED_WORDS = range(12, 25)
_VARIABLE = "RANDYGPT_NSEC"
_taken_from_environment = ""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, its origin, and warnings for its owner."""

    key: SecretKey
    origin: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundPubkey:
    """A public key, the origin of its secret key, and warnings for its owner."""

    pubkey: bytes  # 32, x-only
    origin: str
    warnings: tuple[str, ...]
    is_encrypted: bool


def find(home: Home, file: Path | None, password: Password) -> FoundKey:
    """Return the key to sign with, disable core dumps and hide the key from child processes.

    Args:
        home: The user's home.
        file: A key file to use instead of the home's.
        password: Called with the key's origin if the key is encrypted.

    Raises:
        CallerError: No key was found, or its file is a symbolic link, not the user's, or readable by others.
        InvalidKey: The contents are not a key, or the password is wrong.
        OSError: The file cannot be read.
    """
    source = _read_source(home, file)
    return FoundKey(decrypt(source.raw, source.origin, password), source.origin, source.warnings)


def find_pubkey(home: Home, file: Path | None, password: Password) -> FoundPubkey:
    """Return the public key of what `find` returns, and raise what it raises.

    The password of an encrypted key is needed once: `keys/npub` remembers the public key.
    """
    source = _read_source(home, file)
    is_own = source.origin == str(home.key_path) and is_encrypted(source.raw)
    pubkey = _remembered_pubkey(home, source.raw) if is_own else None
    if pubkey is None:
        pubkey = decrypt(source.raw, source.origin, password).pubkey
        if is_own:
            with contextlib.suppress(OSError):  # a read-only home: the password is asked for each time
                _remember_pubkey(home, source.raw, pubkey)
    return FoundPubkey(pubkey, source.origin, source.warnings, is_encrypted(source.raw))


@dataclass(frozen=True, slots=True)
class _Source:
    raw: str  # the secret, as it is stored
    origin: str
    warnings: tuple[str, ...]


def _read_source(home: Home, file: Path | None) -> _Source:
    disable_core_dumps()
    variable, credential = _environment_key(), _credential()
    warnings = []
    if variable:
        warnings.append(f"{_VARIABLE}: other programs of this user can read a key in the environment")
    if credential:
        origin, raw = str(credential), read_secret(credential)
        if file and file != credential:
            warnings.append(f"--key-file {file} is not used: the key is {origin}")
    elif file or home.key_path.exists():
        origin, raw = str(file or home.key_path), read_secret(file or home.key_path)
    elif home.pairing_path.exists():
        raise CallerError(f"the secret key stays in your remote signer (paired in {home.pairing_path})")
    elif variable:
        origin, raw = _VARIABLE, variable
    else:
        raise CallerError(f"no key at {home.key_path}: create one with randygpt keys new")
    if origin != _VARIABLE:
        warnings += unused_variable(origin)
    return _Source(raw, origin, tuple(warnings))


def has_local_key(home: Home) -> bool:
    """Return whether a credential or the home has a secret key."""
    return _credential() is not None or home.key_path.exists()


def unused_variable(origin: object) -> tuple[str, ...]:
    """Take a key out of the environment, and return a warning if there was one: the key that is used is `origin`."""
    return (f"{_VARIABLE} is not used: the key is {origin}",) if _environment_key() else ()


def _remembered_pubkey(home: Home, secret: str) -> bytes | None:
    """Return the public key in `keys/npub`, None if it belongs to another secret or is damaged."""
    try:
        npub, digest = home.npub_path.read_text(encoding="ascii").split()
        return decode_pubkey(npub) if digest == _digest(secret) else None
    except (OSError, ValueError, InvalidKey):
        return None


def _remember_pubkey(home: Home, secret: str, pubkey: bytes) -> None:
    durable.write(home.npub_path, f"{encode_npub(pubkey)} {_digest(secret)}\n".encode(), mode=durable.SECRET)


def _digest(secret: str) -> str:
    """Return the SHA-256 of an encrypted secret, which tells whether `keys/npub` belongs to it."""
    return hashlib.sha256(secret.strip().encode()).hexdigest()


def _environment_key() -> str:
    """Return `$RANDYGPT_NSEC` and take it out of the environment; a later call in this process returns it again."""
    global _taken_from_environment  # noqa: PLW0603 (one environment, one memory of it)
    _taken_from_environment = os.environ.pop(_VARIABLE, "") or _taken_from_environment
    return _taken_from_environment


def signer(home: Home) -> Signer | None:
    """Return a signer for relays that require authentication (NIP-42), None without a key.

    The key is read when a relay first asks. An encrypted key is refused, as a transfer cannot prompt for a password.
    """
    return _LazyKey(home) if has_local_key(home) else None


class _LazyKey:
    """Signer that reads the key on first use; raises RelayRefused if the key cannot be used."""

    def __init__(self, home: Home) -> None:
        self._home = home

    @functools.cached_property
    def _key(self) -> SecretKey:
        try:
            return find(self._home, None, refuse_password).key
        except (CallerError, OSError) as error:
            raise RelayRefused(f"cannot authenticate: {error}") from None

    @property
    def pubkey(self) -> bytes:
        return self._key.pubkey

    def sign(self, digest: bytes) -> bytes:
        return self._key.sign(digest)


def refuse_password(origin: str) -> str:
    """Raise CallerError: the password of an encrypted key is not asked for."""
    raise CallerError(f"{origin} is encrypted with a password")


def decrypt(raw_secret: str, origin: str, password: Password) -> SecretKey:
    """Return the key in an nsec or ncryptsec; raise InvalidKey, which names the origin but not the secret."""
    try:
        if is_encrypted(raw_secret):
            return SecretKey.from_ncryptsec(raw_secret, password(origin))
        return SecretKey.from_nsec(raw_secret)
    except InvalidKey as error:
        raise InvalidKey(f"{origin}: {_describe_other(raw_secret) or error}") from None


def decode_hex_key(raw_secret: str) -> SecretKey | None:
    """Return the key in 64 hex digits, None for any other text; raise InvalidKey."""
    secret = parse_hex(raw_secret.strip().lower(), _KEY_SIZE)
    return None if secret is None else SecretKey(secret)


def _describe_other(raw_secret: str) -> str:
    """Return what a text is instead of an nsec or ncryptsec, without repeating it; empty if it begins as one."""
    text = raw_secret.strip().lower()
    for start, description in _OTHERS.items():
        if text.startswith(start):
            return description
    if parse_hex(text, _KEY_SIZE):
        return "64 hex digits may be a secret or a public key; store a secret key with randygpt keys import"
    if len(text.split()) in _SEED_WORDS:
        return "seed words (NIP-06) are not supported; export the nsec from the program that has them"
    return "not a secret key; expected an nsec or ncryptsec" if text else "no key in it; expected an nsec or ncryptsec"


def is_encrypted(raw_secret: str) -> bool:
    """Return whether a secret is an ncryptsec, which needs a password."""
    return raw_secret.strip().lower().startswith("ncryptsec1")


def is_secret(text: str) -> bool:
    """Return whether a text may itself be a secret key, and so must not be repeated."""
    return text.lower().startswith(("nsec1", "ncryptsec1")) or parse_hex(text.lower(), _KEY_SIZE) is not None


def store(home: Home, secret: str, pubkey: bytes | None = None) -> None:
    """Store an nsec or ncryptsec as the user's key; raise CallerError if one exists, and OSError.

    The public key of an ncryptsec is remembered, so that showing it needs no password.
    """
    if home.pairing_path.exists():
        raise CallerError(f"a key exists already, in your remote signer: {home.pairing_path}")
    prepare_keys_folder(home)
    write_secret(home.key_path, secret, "a key exists already")
    if pubkey and is_encrypted(secret):
        _remember_pubkey(home, secret, pubkey)


def prepare_keys_folder(home: Home) -> None:
    """Make the folder of keys, which only its owner can read, if it is missing; raises OSError."""
    durable.make_directory(home.folder)
    durable.make_directory(home.key_path.parent, mode=0o700)


def write_secret(path: Path, secret: str, taken: str) -> None:
    """Create a file that only its owner may read; raise CallerError, saying `taken`, if it exists, and OSError."""
    try:
        durable.create(path, f"{secret}\n".encode(), mode=durable.SECRET)
    except FileExistsError:
        raise CallerError(f"{taken}: {path}") from None


def read_secret(path: Path) -> str:
    """Return the contents of a file with a key or a password.

    A systemd credential belongs to the service's user, or to root with an access list, whose mask shows in the group
    bits of the mode.

    Raises:
        CallerError: The file is a symbolic link, not a regular file, not the user's, or readable by others.
        OSError: The file cannot be read.
    """
    is_credential = path.parent == _credentials()
    owners = {os.geteuid(), 0} if is_credential else {os.geteuid()}
    forbidden = stat.S_IRWXO if is_credential else stat.S_IRWXG | stat.S_IRWXO
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CallerError(f"{path}: a file with a secret must not be a symbolic link") from None
        raise
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in owners:
            raise CallerError(f"{path}: a file with a secret must be a regular file that you own")
        if facts.st_mode & forbidden:
            raise CallerError(f"{path} is accessible to other users: run chmod 600 {path}")
        return os.read(descriptor, MAX_SECRET).decode("utf-8-sig", "replace")
    finally:
        os.close(descriptor)


def disable_core_dumps() -> None:
    """Disable core dumps, so that a crash leaves no copy of the key on disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _credentials() -> Path | None:
    """Return the folder of the service's systemd credentials."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def _credential() -> Path | None:
    folder = _credentials()
    return folder / "nsec" if folder and (folder / "nsec").exists() else None
