"""Home folder: its location, and the list of relays."""

from pathlib import Path

import platformdirs
import pytest

from randygpt.errors import CallerError
from randygpt.user.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_home_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(tmp_path / "mine"))
    home = Home.from_environment()
    assert home.folder == tmp_path / "mine"
    assert home.key_path == tmp_path / "mine" / "keys" / "nsec"
    assert home.relays_path == tmp_path / "mine" / "relays.json"
    assert home.journal_path == tmp_path / "mine" / "state" / "journal.sqlite"


def test_relative_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDYGPT_HOME", "mine")
    assert Home.from_environment().folder == tmp_path / "mine"


def test_tilde_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RANDYGPT_HOME", "~/mine")
    assert Home.from_environment().folder == tmp_path / "mine"


@pytest.mark.parametrize("value", [None, ""])
def test_default_home_is_the_platforms(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("RANDYGPT_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("RANDYGPT_HOME", value)
    assert Home.from_environment().folder == platformdirs.user_data_path("randygpt")


def test_relays_listed_by_earlier_versions_are_read(home: Home) -> None:
    listed = ["wss://a.example:443", "wss://a.example", "wss://b.example/né", "wss://re lay.example"]
    home.write_relays(listed)
    assert home.added_relays() == ["wss://a.example", "wss://b.example/n%C3%A9", "wss://re lay.example"]
    with pytest.raises(CallerError, match="not a relay's address: 'wss://re lay"):
        home.resolve_relays(None)
    assert home.resolve_relays(["wss://A.example./", "wss://a.example"]) == ["wss://a.example"]


def test_relays_round_trip(home: Home) -> None:
    relays = ["wss://b.example", "ws://127.0.0.1:7777", "wss://a.example/n%C3%A9"]
    assert home.added_relays() == []
    home.write_relays(relays)
    assert home.added_relays() == relays
    home.write_relays([])
    assert home.added_relays() == []
    assert [entry.name for entry in home.folder.iterdir()] == ["relays.json"]


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"\xff", b"{}", b"null", b'"wss://a"', b"[1]", b'["wss://a", null]', b"[" * 200_000],
    ids=lambda data: repr(data)[:20],
)
def test_damaged_relay_list_is_named_and_kept(home: Home, data: bytes) -> None:
    home.write_relays([])
    home.relays_path.write_bytes(data)
    with pytest.raises(CallerError, match=str(home.relays_path)):
        home.added_relays()
    assert home.relays_path.read_bytes() == data
