"""The user's home folder: where its files are, and the lists of relays and servers. Does disk I/O.

keys/nsec      the secret key, and keys/npub its public half (`randygpt.user.signing_key`)
keys/bunker    instead of it: the remote signer that has the key (`randygpt.user.pairing`)
relays.json    relay URLs, in the order they were added
servers.json   Blossom servers, the same
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from randygpt.errors import CallerError
from randygpt.user.config_files import Key, convert_setting, expand_user, load_settings
from relay_client import durable
from relay_client.blossom.address import normalize_server
from relay_client.url import normalize_url


@dataclass(frozen=True, slots=True)
class Home:
    """A user's home folder, and the relays that settings name. Files in the folder are created when needed."""

    folder: Path
    configured_relays: tuple[str, ...] = ()  # from a settings file or $RANDYGPT_RELAYS
    overrides_list: bool = False  # True if these replace the list in relays.json

    @classmethod
    def from_environment(cls) -> "Home":
        """Find the home folder: `$RANDYGPT_HOME`, else `home` in the settings files, else the platform's data folder.

        The relays are those in the settings files, in addition to the user's list; `$RANDYGPT_RELAYS` replaces both.

        Raises:
            CallerError: A settings file is wrong, or this user has no home folder.
            OSError: A settings file cannot be read.
        """
        settings = load_settings()
        said, relays = convert_setting(settings, HOME, _folder), convert_setting(settings, RELAYS, _relays)
        chosen, instead = os.environ.get(environment_name(HOME)), os.environ.get(environment_name(RELAYS), "").split()
        folder = expand_user(Path(chosen)).absolute() if chosen else said or _default_folder()
        if folder is None:
            raise CallerError("this user has no home folder: set RANDYGPT_HOME to the folder for keys and models")
        return cls(folder, tuple(instead or relays or ()), overrides_list=bool(instead))

    @property
    def key_path(self) -> Path:
        """File of the secret key."""
        return self.folder / "keys" / "nsec"

    @property
    def pairing_path(self) -> Path:
        """File of the pairing with a remote signer, which has the secret key."""
        return self.folder / "keys" / "bunker"

    @property
    def npub_path(self) -> Path:
        """File of the public key, if the secret key is encrypted."""
        return self.folder / "keys" / "npub"

    @property
    def journal_path(self) -> Path:
        """Journal of what this machine has published."""
        return self.folder / "state" / "journal.sqlite"

    @property
    def follow_path(self) -> Path:
        """Status of `follow`."""
        return self.folder / "state" / "follow.json"

    @property
    def relays_path(self) -> Path:
        """File with the list of relays."""
        return self.folder / "relays.json"

    def relays(self) -> list[str]:
        """Return the user's relays, those from settings first; raises CallerError if the list is damaged."""
        return list(dict.fromkeys([*self.configured_relays, *([] if self.overrides_list else self.added_relays())]))

    @property
    def servers_path(self) -> Path:
        """File with the list of Blossom servers."""
        return self.folder / "servers.json"

    def servers(self) -> list[str]:
        """Return the user's Blossom servers, each once; raises CallerError if the list is damaged."""
        listed = _read_list(self.servers_path, "server URLs")
        try:
            return list(dict.fromkeys(map(normalize_server, listed)))
        except CallerError as error:
            raise CallerError(f"{self.servers_path}: {error}") from None

    def resolve_servers(self, named: Sequence[str] | None) -> list[str]:
        """Return the Blossom servers to use: those named for this call, else the user's; raises CallerError."""
        return list(dict.fromkeys(map(normalize_server, self.servers() if named is None else named)))

    def write_servers(self, origins: Sequence[str]) -> None:
        """Replace servers.json durably; raises OSError."""
        durable.make_directory(self.folder)
        durable.write(self.servers_path, json.dumps(list(origins), indent=1).encode())

    def resolve_relays(self, named: Sequence[str] | None, *, hints: Sequence[str] = ()) -> list[str]:
        """Return the relays to use: those named for this call, else the user's, each once.

        Args:
            named: URLs of relays, from `--relay` or an argument.
            hints: Relays inside a reference. The error names them, but they are not used: the author of the reference
                chose them.

        Raises:
            CallerError: There are no relays, or a URL is wrong.
        """
        urls = list(dict.fromkeys(normalize_url(url) for url in named or self.relays()))
        if not urls:
            hinted = f" (the reference suggests {', '.join(map(repr, hints))})" if hints else ""
            raise CallerError(
                f"no relays configured; add one with `randygpt relays add URL`, or pass --relay URL{hinted}"
            )
        return urls

    def added_relays(self) -> list[str]:
        """Return the relays in relays.json, each once; raises CallerError if the file is damaged.

        An entry that is no relay's address, as an earlier version may have written it, stays as it is.
        """
        return list(dict.fromkeys(map(_normalize_listed, _read_list(self.relays_path, "relay URLs"))))

    def write_relays(self, relays: list[str]) -> None:
        """Replace relays.json durably; raises OSError."""
        durable.make_directory(self.folder)
        durable.write(self.relays_path, json.dumps(relays, indent=1).encode())


@dataclass(frozen=True, slots=True)
class GlobalSetting:
    """A setting that applies to all commands."""

    help: str
    convert: Callable[[object], object]  # raises CallerError
    default: object


def environment_name(key: Key) -> str:
    """Return the environment variable for a key of the settings files."""
    return "_".join(["RANDYGPT", *key]).upper().replace("-", "_")


def _default_folder() -> Path | None:
    """Return the platform's data folder, None without `$HOME` and an entry in the password database."""
    try:
        return platformdirs.user_data_path("randygpt").absolute()
    except RuntimeError:
        return None


def _folder(value: object) -> Path:
    path = expand_user(Path(value)) if isinstance(value, str) else None
    if not path or not path.is_absolute():
        raise CallerError("expected an absolute path (a quoted string)")
    return path


def _read_list(path: Path, what: str) -> list[str]:
    """Return a list of texts from a JSON file, empty without the file; raises CallerError if it is damaged."""
    try:
        items = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError) as error:
        raise CallerError(f"{path}: not JSON ({error})") from None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise CallerError(f"{path}: not a list of {what}")
    return items


def _normalize_listed(url: str) -> str:
    try:
        return normalize_url(url)
    except CallerError:
        return url


def _relays(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise CallerError("expected a list of relay URLs")
    return [normalize_url(url) for url in value]


_EXAMPLE = "/var/lib/randygpt"  # where the platform has no default
HOME: Key = ("home",)
RELAYS: Key = ("relays",)
GLOBAL_SETTINGS = {
    HOME: GlobalSetting("Folder of keys, store and state.", _folder, str(_default_folder() or _EXAMPLE)),
    RELAYS: GlobalSetting(
        "Relays to publish to and fetch from, in addition to those of `randygpt relays add`.", _relays, []
    ),
}
