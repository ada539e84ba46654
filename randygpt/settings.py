"""The user's own files below `$RANDYGPT_HOME`: where they are, the secret key, the list of relays. Does disk I/O.

keys/nsec      the secret key, mode 0600, made by `randygpt keys new` and by nothing else
relays.json    addresses of relays, in the order they were added
"""

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from randygpt.errors import CallerError
from relay_client import durable
from relay_client.errors import InvalidKey
from relay_client.keys import SecretKey

_MAX_KEY_FILE = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Home:
    """A user's folder. Nothing in it exists before it is needed."""

    folder: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """`$RANDYGPT_HOME`, else the platform's data directory."""
        chosen = os.environ.get("RANDYGPT_HOME")
        return cls(Path(chosen).expanduser().absolute() if chosen else platformdirs.user_data_path("randygpt"))

    @property
    def key_path(self) -> Path:
        """The secret key's file."""
        return self.folder / "keys" / "nsec"

    @property
    def journal_path(self) -> Path:
        """The publishing journal."""
        return self.folder / "state" / "journal.sqlite"

    @property
    def follow_path(self) -> Path:
        """What `follow` says of how it stands."""
        return self.folder / "state" / "follow.json"

    @property
    def relays_path(self) -> Path:
        """The list of relays."""
        return self.folder / "relays.json"

    def new_key(self) -> SecretKey:
        """Make the key; raises CallerError if there is one, and OSError."""
        key = SecretKey.generate()
        durable.make_directory(self.folder)
        durable.make_directory(self.key_path.parent, mode=0o700)
        try:
            durable.create(self.key_path, f"{key.reveal_nsec()}\n".encode(), mode=durable.SECRET)
        except FileExistsError:
            raise CallerError(f"there is a key already: {self.key_path}") from None
        return key

    def read_key(self, path: Path | None = None) -> SecretKey:
        """The user's key, or the one in `path`.

        Raises CallerError if there is none, or if the file is a link, somebody else's, or open to others; InvalidKey
        if it holds no nsec; OSError.
        """
        path = path or self.key_path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise CallerError(f"no key at {path}; make one: randygpt keys new") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CallerError(f"{path}: a key file may not be a symbolic link") from None
            raise
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                raise CallerError(f"{path}: a key file must be a plain file of your own")
            if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise CallerError(f"{path}: others may read this key; run: chmod 600 {path}")
            return SecretKey.from_nsec(os.read(descriptor, _MAX_KEY_FILE).decode("ascii", "replace"))
        except InvalidKey as error:
            raise InvalidKey(f"{path}: {error}") from None
        finally:
            os.close(descriptor)

    def read_relays(self) -> list[str]:
        """The user's relays; raises CallerError if the file is damaged."""
        try:
            relays = json.loads(self.relays_path.read_bytes())
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError) as error:
            raise CallerError(f"{self.relays_path}: not JSON: {error}") from None
        if not isinstance(relays, list) or not all(isinstance(url, str) for url in relays):
            raise CallerError(f"{self.relays_path}: not a list of addresses")
        return relays

    def write_relays(self, relays: list[str]) -> None:
        """Replace the user's relays, durably; raises OSError."""
        durable.make_directory(self.folder)
        durable.write(self.relays_path, json.dumps(relays, indent=1).encode())
