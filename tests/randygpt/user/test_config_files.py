"""Configuration files: which are read, their settings, and the line of each."""

import os
import tomllib
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from randygpt.errors import CallerError, InvalidSetting
from randygpt.user import config_files
from randygpt.user.config_files import Setting, line_number, load_settings, parse
from relay_client.keys import SecretKey

FILE = Path("config.toml")
TEXT = '''# settings
home = "/x"

serve.port = 3 # not [follow]
[follow]
# [serve]
exec = """
[serve]
host = "a"
"""
name = 'a'
inline = { b = 1, c = 2 }
relay = [
  "a", # ]

  "b",
]

[[many]]
y = 1
[empty]
[self]

self = 1
'''


STATEMENTS = [
    "\n",
    "# [a]\n",
    "a = 1\n",
    "b.c = 1 # a\n",
    "d = [\n1,\n\n]\n",
    'e = """\n[a]\nf = 1\n"""\n',
    "f = {a = 1}\n",
]
PIECES = [*STATEMENTS, *STATEMENTS, "[g]\n", "[h.i]\n", "[[j]]\n", *'\na =.1"#[]{},']


def test_every_key_has_its_first_line() -> None:
    lines = {".".join(key): line_number(TEXT, key) for key in parse(FILE, TEXT)}
    assert lines == {
        "home": 2,
        "serve.port": 4,
        "follow.exec": 7,
        "follow.name": 11,
        "follow.inline.b": 12,
        "follow.inline.c": 12,
        "follow.relay": 13,
        "many": 19,
        "empty": 21,
        "self.self": 24,
    }


def parsed(text: str) -> dict[config_files.Key, object] | None:
    """Return keys and values, None if the text is not TOML."""
    try:
        return parse(FILE, text)
    except InvalidSetting as error:
        assert 1 <= error.line <= text.count("\n") + 1  # noqa: PT017 (what it raises is not the question)
        return None


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_gives_an_error_or_lines_for_all_keys(text: str) -> None:
    lines = text.split("\n")
    prefixes = {end: parsed("\n".join(lines[:end])) for end in range(len(lines) + 1)}
    for key in parsed(text) or {}:
        end = next(end for end, values in prefixes.items() if values is not None and key in values)
        assert line_number(text, key) == 1 + max(n for n, values in prefixes.items() if values is not None and n < end)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a = 1\nb\nc = 2", 2, "not TOML: Expected '=' after a key in a key/value pair"),
        ("a = 1\n[serve\n", 2, "not TOML"),
        ('a = 1\nb = """\n\n', 2, "not TOML: Unterminated string"),
        ("a = 1\na = 2\n", 2, "not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 100_000, 1, "nested too deeply"),
        (f"a = 1\nb = {'9' * 5_000}\n", 2, "a number has too many digits"),
    ],
)
def test_toml_error_has_a_line(text: str, line: int, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says) as caught:
        parse(FILE, text)
    assert (caught.value.file, caught.value.key) == ("config.toml", "")
    assert caught.value.line >= line
    assert str(caught.value).startswith(f"config.toml:{caught.value.line}: ")


@pytest.mark.parametrize("value", [f"0x{'9' * 5_000}", str(1 << 63), f"[[1], {{x = {1 << 64}}}]"])
def test_number_over_64_bits_is_refused(value: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^config\.toml:2: b: a number has at most 64 bits$"):
        parse(FILE, f"a = 1\nb = {value}\n")


@pytest.mark.parametrize("where", ['key-file = "{}"', "# {}", "{} = 1", "[{}]"])
def test_secret_key_is_refused_and_not_repeated(where: str, key: SecretKey) -> None:
    for secret in (key.reveal_nsec(), key.reveal_nsec().upper(), key.reveal_ncryptsec("x")):
        with pytest.raises(InvalidSetting, match=r"config\.toml:2: secret keys are not allowed") as caught:
            parse(FILE, "\n" + where.format(secret))
        assert secret not in str(caught.value)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    text = config_files.read_text(path)
    assert parse(path, text) == {("a",): 1, ("b",): 2}
    assert config_files.line_number(text, ("b",)) == 2
    path.write_bytes(b"\xef\xbb\xbfa = 1\nb = '\xff'\n")
    with pytest.raises(InvalidSetting, match=r"c\.toml:2: not UTF-8 text"):
        config_files.read_text(path)


def test_non_utf8_file_has_a_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(InvalidSetting, match=r"c\.toml:2: not UTF-8 text"):
        config_files.read_text(tmp_path / "c.toml")


def test_machine_file_then_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RANDYGPT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_files.config_paths() == [
        Path("/etc/randygpt/config.toml"),
        platformdirs.user_config_path("randygpt") / "config.toml",
    ]


def test_later_file_overrides_key_by_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("[serve]\nport = 1\nhost = 'a'\n", encoding="utf-8")
    second.write_text("[serve]\nport = 2\n", encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_CONFIG", f"{first}{os.pathsep}{second}")
    assert load_settings() == {("serve", "port"): Setting(2, second), ("serve", "host"): Setting("a", first)}


def test_current_directory_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RANDYGPT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    for name in ("config.toml", "randygpt.toml", ".randygpt.toml"):
        (tmp_path / name).write_text("not TOML", encoding="utf-8")
    assert not any(path.is_relative_to(tmp_path) and path.exists() for path in config_files.config_paths())
    assert all(setting.file == Path("/etc/randygpt/config.toml") for setting in load_settings().values())


def test_unreachable_file_has_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANDYGPT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", f"/{'x' * 300}")  # no name is so long; root may look everywhere else
    assert set(config_files.existing_paths()) <= {Path("/etc/randygpt/config.toml")}


def test_named_file_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANDYGPT_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(CallerError, match=r"gone\.toml does not exist"):
        load_settings()


@pytest.mark.parametrize(("mode", "is_read"), [(0o644, True), (0o664, True), (0o646, False), (0o666, False)])
def test_world_writable_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: int,
    is_read: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = 1\n", encoding="utf-8")
    path.chmod(mode)
    monkeypatch.setenv("RANDYGPT_CONFIG", str(path))
    if is_read:
        assert load_settings() == {("a",): Setting(1, path)}
    else:
        with pytest.raises(CallerError, match="other users may write"):
            load_settings()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_settings_of_another_user_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = 1\n", encoding="utf-8")
    os.chown(path, 1, -1)
    monkeypatch.setenv("RANDYGPT_CONFIG", str(path))
    with pytest.raises(CallerError, match="other users may write"):
        load_settings()


def test_sample_is_toml() -> None:
    assert tomllib.loads(TEXT)["serve"] == {"port": 3}
