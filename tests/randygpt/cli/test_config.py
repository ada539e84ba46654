"""Settings as a user meets them: file, environment, flags; and `randygpt config`, which checks and shows them."""

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import TextIO

import pytest
import typer
from support.command import TIMEOUT_S, invoke_until_terminated, only_line, randygpt
from support.models import write_tiny

from randygpt.cli import installed
from randygpt.cli.demo_stage import Stage
from randygpt.cli.main import app, run
from randygpt.cli.settings import parameters
from randygpt.model.config import ModelConfig
from randygpt.training.options import DEFAULT_ITERATIONS
from randygpt.training.recipe import FAST, RECIPES

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def settings(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one settings file that is read."""
    path = at_home / "settings.toml"
    path.write_text("", encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_CONFIG", str(path))
    return path


def generated(capsys: Capture, *words: str) -> list[str]:
    assert run(["generate", "--json", *words]) == 0
    return [each["text"] for each in json.loads(capsys.readouterr().out)["completions"]]


def test_flag_overrides_variable_and_variable_overrides_file(
    settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(settings.with_name("m.bin"))
    settings.write_text('[generate]\nmodel = "m.bin"\nmax-tokens = 2\nseed = 1\n', encoding="utf-8")
    lengths = [len(generated(capsys, "the")[0])]
    monkeypatch.setenv("RANDYGPT_GENERATE_MAX_TOKENS", "5")
    lengths.append(len(generated(capsys, "the")[0]))
    lengths.append(len(generated(capsys, "the", "--max-tokens", "9")[0]))
    monkeypatch.setenv("RANDYGPT_GENERATE_MAX_TOKENS", "")  # as if it were not set
    lengths.append(len(generated(capsys, "the")[0]))
    assert lengths == [2, 5, 9, 2]


def test_arguments_lists_and_flags_can_be_set(settings: Path, capsys: Capture) -> None:
    write_tiny(settings.with_name("m.bin"))
    settings.write_text(
        '[generate]\nmodel = "m.bin"\nmax-tokens = 9\nseed = 1\njson = true\nprompt = ["the", "fox"]\n',
        encoding="utf-8",
    )
    assert run(["generate"]) == 0
    both = json.loads(capsys.readouterr().out)["completions"]
    assert [each["prompt"] for each in both] == ["the", "fox"]
    assert generated(capsys, "fox") == [both[1]["text"]]
    with settings.open("a", encoding="utf-8") as file:
        file.write(f"stop = [{json.dumps(both[1]['text'][3])}]\n")
    assert generated(capsys, "fox")[0] == both[1]["text"][: both[1]["text"].index(both[1]["text"][3])]


def test_variable_turns_off_a_flag_in_the_file(
    settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text("[list]\njson = true\n", encoding="utf-8")
    assert run(["list"]) == 0
    assert json.loads(capsys.readouterr().out) == {"releases": []}
    monkeypatch.setenv("RANDYGPT_LIST_JSON", "0")
    assert run(["list"]) == 0
    assert capsys.readouterr().out == ""


def test_rust_flags_use_their_commands_settings(settings: Path, capsys: Capture) -> None:
    settings.write_text('[train]\npreset = "xs"\ntrain-file = "gone.txt"\n', encoding="utf-8")
    assert run(["--iters", "1"]) == 2
    assert "gone.txt" in only_line(capsys.readouterr().err)


def test_flag_overrides_conflicting_setting(settings: Path, capsys: Capture) -> None:
    settings.write_text('[serve]\nfollow = "npub1/x"\n[generate]\nmodel = "set.bin"\n', encoding="utf-8")
    assert run(["serve", "--model", "typed.bin"]) == 2
    assert "typed.bin" in only_line(capsys.readouterr().err)
    assert run(["generate", "--checkpoint", "typed"]) == 2
    assert "typed_best.bin" in only_line(capsys.readouterr().err)
    assert run(["serve", "--model", "typed.bin", "--follow", "npub1/x"]) == 2
    assert "--follow cannot be combined with --model or --checkpoint" in only_line(capsys.readouterr().err)


def test_serve_uses_the_port_in_the_file(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "m.bin")
    (tmp_path / "keys.txt").write_text("hunter2\n", encoding="utf-8")
    path = tmp_path / "c.toml"
    path.write_text(f'[serve]\nport = {free_port}\nmodel = "m.bin"\napi-key-file = "~/keys.txt"\n', encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_CONFIG", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))

    def ask(output: TextIO) -> None:
        address = output.readline().rstrip()
        assert address == f"http://127.0.0.1:{free_port}"
        request = urllib.request.Request(
            address, b'{"prompt": "a", "max_tokens": 1}', {"Authorization": "Bearer hunter2"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            assert reply.status == 200

    invoke_until_terminated(tmp_path, "serve", client=ask)


def test_home_and_relays_from_file_and_environment(
    settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = settings.with_name("elsewhere")
    settings.write_text(f'home = "{home}"\nrelays = ["wss://set.example/"]\n', encoding="utf-8")
    monkeypatch.delenv("RANDYGPT_HOME")

    def relays(*words: str) -> list[str]:
        assert run(["relays", *words, "--json"]) == 0
        found: list[str] = json.loads(capsys.readouterr().out)["relays"]
        return found

    assert relays("add", "wss://added.example") == ["wss://set.example", "wss://added.example"]
    assert relays("add", "wss://set.example") == ["wss://set.example", "wss://added.example"]
    assert json.loads((home / "relays.json").read_bytes()) == ["wss://added.example"]
    assert run(["relays", "remove", "wss://set.example"]) == 2
    assert "comes from a setting; remove it there" in only_line(capsys.readouterr().err)
    monkeypatch.setenv("RANDYGPT_RELAYS", "wss://one.example wss://two.example")
    assert relays("list") == ["wss://one.example", "wss://two.example"]
    monkeypatch.setenv("RANDYGPT_HOME", str(settings.with_name("third")))
    monkeypatch.delenv("RANDYGPT_RELAYS")
    assert relays("list") == ["wss://set.example"]


MISTAKES = {
    "[serve]\nprot = 1": (2, "serve.prot", "no such setting (did you mean serve.port"),
    "[srve]\nport = 1": (2, "srve.port", "did you mean serve.port"),
    "[srve]": (1, "srve", "no such setting"),
    "port = 1": (1, "port", "did you mean serve.port or relay.port?"),
    "[keys]\nfile = 'x'": (2, "keys.file", "no such setting"),
    "\n\n[serve]\n# a\nport = 65536": (5, "serve.port", "65536 is greater than 65535"),
    "[serve]\nport = '80'": (2, "serve.port", "expected a number"),
    "[serve]\nport = 'x'": (2, "serve.port", "'x' is not an integer"),
    "[serve]\nport = true": (2, "serve.port", "expected a number"),
    "[serve]\nport = []": (2, "serve.port", "integer"),
    "[serve]\nhost = 1": (2, "serve.host", "expected a quoted string"),
    "[serve]\nmodel = 1": (2, "serve.model", "expected a quoted string"),
    "[serve]\nhost = 2026-01-01": (2, "serve.host", "expected a quoted string"),
    "[serve]\ninsecure = 1": (2, "serve.insecure", "expected true or false"),
    "[serve]\ninsecure = 'yes'": (2, "serve.insecure", "expected true or false"),
    "[serve]\nallow-host = 'a'": (2, "serve.allow-host", "expected a list"),
    "[serve]\nallow-host = [1]": (2, "serve.allow-host", "expected a list of quoted strings"),
    "[serve]\nlog = 'xml'": (2, "serve.log", "'xml' is not one of 'console', 'json'"),
    "[serve]\nmax-size = 'much'": (2, "serve.max-size", "not a size in bytes"),
    "[serve]\napi-key = 'hunter2'": (
        2,
        "serve.api-key",
        "secrets are not allowed here; set api-key-file instead",
    ),
    "[serve.port]\na = 1": (2, "serve.port.a", "did you mean serve.port"),
    "[[serve]]\nport = 1": (1, "serve", "no such setting"),
    "[fetch]\nrelay = ['http://x']": (2, "fetch.relay", "not a relay's address"),
    "[train]\npreset = 'huge'": (2, "train.preset", "unknown preset 'huge'"),
    "[train]\nrecipe = 'slow'": (2, "train.recipe", "'slow' is not one of"),
    "[publish]\nexpires = 'soon'": (2, "publish.expires", "is not a duration"),
    "[gc]\nquota = '1 mile'": (2, "gc.quota", "not a size in bytes"),
    "[plot]\nfile = []": (2, "plot.file", "value required"),
    "home = 1": (1, "home", "expected an absolute path"),
    "home = '~no-such-user/x'": (1, "home", "no home folder for ~no-such-user"),
    "[serve]\ncheckpoint = '~no-such-user/x'": (2, "serve.checkpoint", "no home folder for ~no-such-user"),
    '[serve]\nmodel = "a\\u0000"': (2, "serve.model", "NUL"),
    'relays = ["wss://a.example/\\u0000"]': (1, "relays", "NUL"),
    "home = 'here'": (1, "home", "expected an absolute path"),
    "relays = 'wss://a.example'": (1, "relays", "expected a list of relay URLs"),
    "relays = ['wss://a.example',\n 'http://a']": (1, "relays", "not a relay's address"),
    "[serve]\nport 1": (2, "", "not TOML"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_names_file_line_and_key(settings: Path, capsys: Capture, text: str) -> None:
    line, key, says = MISTAKES[text]
    settings.write_text(text, encoding="utf-8")
    place = f"{settings}:{line}: {key}{': ' if key else ''}"
    assert run(["config", "check"]) == 2
    shown = only_line(capsys.readouterr().out)
    assert shown.startswith(place)
    assert says in shown
    assert "hunter2" not in shown
    assert run(["list"]) == 2
    out, err = capsys.readouterr()
    assert (out, only_line(err)) == ("", f"randygpt: {shown}")


def test_all_mistakes_are_named_in_all_files(settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    other = settings.with_name("other.toml")
    settings.write_text("a = 1\n[serve]\nport = 2\nprot = 3\n", encoding="utf-8")
    other.write_text("[", encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_CONFIG", f"{settings}{os.pathsep}{other}")
    monkeypatch.setenv("RANDYGPT_SERVE_HSOT", "a")
    monkeypatch.setenv("RANDYGPT_SERVED", "not ours")
    monkeypatch.setenv("RANDYGPT_TRAIN_ITERS", "0")
    monkeypatch.setenv("RANDYGPT_RELAYS", "http://a.example")
    assert run(["config", "check", "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert [(each["file"], each["line"], each["key"]) for each in result["mistakes"]] == [
        (str(settings), 1, "a"),
        (str(settings), 4, "serve.prot"),
        (str(other), 1, ""),
    ]
    relays, misspelt, wrong = sorted(result["variables"])
    assert relays.startswith("RANDYGPT_RELAYS: not a relay's address: 'http://a.example'")
    assert misspelt.startswith("RANDYGPT_SERVE_HSOT: no such setting (did you mean RANDYGPT_SERVE_HOST")
    assert wrong.startswith("RANDYGPT_TRAIN_ITERS: 0 is less than 1")


def test_config_check_takes_another_file(settings: Path, capsys: Capture) -> None:
    settings.write_text("nonsense", encoding="utf-8")
    other = settings.with_name("other.toml")
    other.write_text("[serve]\n", encoding="utf-8")
    assert run(["config", "check", str(other)]) == 0
    assert capsys.readouterr() == ("", f"no errors: {other}\n")
    assert run(["config", "check", "gone.toml"]) == 2
    assert "gone.toml" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "words", [["--help"], ["serve", "--help"], ["serve", "-h"], ["--version"], ["config", "example"]]
)
def test_help_works_with_invalid_settings(settings: Path, words: list[str]) -> None:
    settings.write_text("nonsense", encoding="utf-8")
    assert run(words) == 0


def test_completion_works_with_invalid_settings(settings: Path) -> None:
    settings.write_text("nonsense", encoding="utf-8")
    assert installed.complete("") == []


def test_prompt_may_look_like_a_flag(settings: Path, capsys: Capture) -> None:
    settings.write_text("nonsense", encoding="utf-8")
    assert run(["generate", "--", "--help"]) == 2
    assert "not TOML" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("RANDYGPT_SERVE_PORT", "x", "'--port'"), ("RANDYGPT_SERVE_MAX_SIZE", "much", "not a size in bytes")],
)
def test_invalid_variable_is_named(
    settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    settings.write_text("[serve]\nport = 1\n", encoding="utf-8")
    monkeypatch.setenv(name, value)
    assert run(["serve"]) == 2
    shown = only_line(capsys.readouterr().err)
    assert shown.startswith(f"randygpt serve: {name}: ")
    assert says in shown


def test_variables_of_the_follow_hook_are_not_settings(
    settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RELEASE", "NAME", "VERSION", "AUTHOR", "CHECKPOINT", "FOLDER", "GOLDEN", "HELP"):
        monkeypatch.setenv(f"RANDYGPT_{name}", "2")
    assert run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"releases": []}
    assert settings.exists()


def shown(capsys: Capture, *words: str) -> dict[str, tuple[object, str]]:
    assert run(["config", "show", "--json", *words]) == 0
    return {each["key"]: (each["value"], each["from"]) for each in json.loads(capsys.readouterr().out)["settings"]}


def test_config_show_names_each_source(settings: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write_text('relays = ["wss://a.example"]\n[serve]\nport = 1\nhost = "b"\n', encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_SERVE_PORT", "2")
    monkeypatch.setenv("RANDYGPT_SERVE_API_KEY", "hunter2")
    home = settings.parent
    assert run(["relays", "add", "wss://c.example"]) == 0
    assert shown(capsys) == {
        "home": (str(home), "RANDYGPT_HOME"),
        "relays": (["wss://a.example", "wss://c.example"], f"{settings}:1, {home / 'relays.json'}"),
        "serve.port": (2, "RANDYGPT_SERVE_PORT"),
        "serve.host": ("b", f"{settings}:4"),
        "serve.api-key": ("***", "RANDYGPT_SERVE_API_KEY"),
    }
    everything = shown(capsys, "--all")
    assert everything["serve.max-sequences"] == (128, "default")
    assert everything["train.checkpoint"] == ("checkpoint", "default")
    assert run(["config", "show"]) == 0
    assert f'serve.host     "b"  ({settings}:4)\n' in capsys.readouterr().out


def test_config_example_is_complete_and_valid(settings: Path, capsys: Capture) -> None:
    assert run(["config", "example"]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text) == {table: {} for table in tomllib.loads(text)}
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()]
    settings.write_text("\n".join(lines), encoding="utf-8")
    assert run(["config", "check"]) == 0, capsys.readouterr().out
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    known = {key for key in parameters(program) if key[1] not in {"json", "quiet", "api-key"}}
    said = tomllib.loads("\n".join(lines))
    assert {(table, key) for table, keys in said.items() if isinstance(keys, dict) for key in keys} == known
    assert said["serve"]["port"] == 8080
    assert said.keys() >= {"home", "relays"}
    assert "# Port to listen on; 0 for any free port.  [default: 8080; 0 to 65535]" in text
    shape = ModelConfig.from_preset("xs", vocab_size=9)
    fast, train = RECIPES[FAST], said["train"]
    assert (train["preset"], train["recipe"], train["iters"]) == (fast.preset, FAST, DEFAULT_ITERATIONS)
    assert (train["lr"], train["min-lr"], train["batch"]) == (fast.max_lr, fast.min_lr, fast.batch_size)
    assert (train["dim"], train["heads"], train["layers"]) == (shape.n_embd, shape.n_head, shape.n_layer)
    assert train["block"] == shape.block_size
    assert (said["generate"]["model"], said["generate"]["stop"]) == ("MODEL", [])


def test_documented_settings_are_valid(settings: Path, capsys: Capture) -> None:
    page = (Path(__file__).parents[3] / "docs/settings.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    settings.write_text(toml, encoding="utf-8")
    assert run(["config", "check", "--quiet"]) == 0, capsys.readouterr().out
    settings.write_text("\n" * 4 + "serve.prot = 1\n", encoding="utf-8")
    assert run(["list"]) == 2
    shown = capsys.readouterr().err.replace(str(settings), "/etc/randygpt/config.toml")
    assert f"```text\n{shown}```" in page


def test_settings_and_variables_match_parameters() -> None:
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    known = parameters(program)
    commands = [each for each in program.commands.values() if isinstance(each, typer.core.TyperCommand)]
    assert len(known) == sum(len(command.params) for command in commands if command.name != "help")
    assert len({parameter.environment_name for parameter in known.values()}) == len(known)
    assert all(part == part.lower() and part.replace("-", "").isalnum() for key in known for part in key)
    assert {("follow", "name"), ("follow", "exec"), ("publish", "model"), ("publish", "license")} <= known.keys()


def test_demo_ignores_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_SERVE_PORT", "1")
    monkeypatch.setenv("RANDYGPT_RELAYS", "ws://x")
    variables = Stage(tmp_path)._environment("author")
    ours = {name: value for name, value in variables.items() if name.startswith("RANDYGPT_")}
    assert ours == {"RANDYGPT_HOME": str(tmp_path / "author"), "RANDYGPT_CONFIG": os.devnull}


def test_process_reads_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANDYGPT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    probe = "import platformdirs; print(platformdirs.user_config_path('randygpt'))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    folder = Path(found.stdout.strip())
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('relays = ["wss://users.example"]\n', encoding="utf-8")
    assert "wss://users.example" in randygpt(tmp_path, "relays", "list").stdout.split()


def test_relay_of_an_earlier_list_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(tmp_path))
    listed = tmp_path / "relays.json"
    listed.write_text('["wss://re lay.example", "wss://a.example:443", "wss://b.example"]')
    assert run(["relays", "remove", "wss://re lay.example"]) == 0
    assert run(["relays", "remove", "wss://A.example."]) == 0
    assert json.loads(listed.read_bytes()) == ["wss://b.example"]


@pytest.mark.usefixtures("at_home")
def test_unusable_proxy_gives_one_line_and_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    assert run(["fetch", "0" * 64, "--relay", "wss://relay.example"]) == 4
    assert "the proxy in https_proxy cannot be used: socks5://127.0.0.1:1080" in only_line(capsys.readouterr().err)
