"""deploy/Containerfile and compose.yaml agree with the program and with each other. No container engine runs here."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from randygpt.cli.main import app

ROOT = Path(__file__).parents[2]
COMMAND: Any = typer.main.get_command(app)
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
STEPS = [
    (step.partition(" ")[0], step.partition(" ")[2])
    for step in (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if step and not step.startswith("#")
]
COPIED = [shlex.split(words)[:-1] for name, words in STEPS if name == "COPY" and not words.startswith("--from")]
SOURCES = [source for words in COPIED for source in words]


def steps(name: str) -> list[str]:
    return [words for step, words in STEPS if step == name]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for words in steps("ENV") for word in shlex.split(words))


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the parameters that the command line parses from valid words."""
    filled = [re.sub(r"\$\{\w+:[?-](.*)\}", r"\1", word).replace("npub1…", f"{5:064x}") for word in words]
    command = COMMAND.commands[filled[0]]
    return dict(command.make_context(filled[0], filled[1:]).params)


def mounts(service: str) -> dict[str, list[str]]:
    """Return the mount options of a service's container by path."""
    return {place: rest for _, place, *rest in (each.split(":") for each in COMPOSE["services"][service]["volumes"])}


def test_image_copies_the_whole_program() -> None:
    assert all((ROOT / source).exists() for source in SOURCES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(SOURCES)
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(SOURCES)


def test_image_runs_in_its_data_folder() -> None:
    [entry], [words] = steps("ENTRYPOINT"), steps("CMD")
    assert json.loads(entry) == ["randygpt"]
    assert parsed(json.loads(words))["host"] == "0.0.0.0"  # noqa: S104 (inside a container)
    [volumes] = steps("VOLUME")
    assert environment()["RANDYGPT_HOME"] in json.loads(volumes)
    assert environment()["PATH"].split(":")[0] == "/opt/randygpt/bin"
    assert steps("EXPOSE") == [str(parsed(["serve"])["port"])]
    [user] = steps("USER")
    assert user != "0"
    assert f"--uid {user} " in " ".join(steps("RUN"))


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_service_commands_are_valid_and_confined(service: str) -> None:
    facts = COMPOSE["services"][service]
    assert facts["command"][0] == service
    parsed(facts["command"])
    assert facts["read_only"] is True
    assert facts["cap_drop"] == ["ALL"]
    assert (ROOT / "deploy" / facts["build"]["context"] / facts["build"]["dockerfile"]).is_file()
    assert {each.split(":")[0] for each in facts["volumes"]} <= set(COMPOSE["volumes"])
    assert set(facts.get("secrets", ())) <= set(COMPOSE["secrets"])


def test_services_fit_together() -> None:
    services = COMPOSE["services"]
    relay, follow, serve = (parsed(services[name]["command"]) for name in ("relay", "follow", "serve"))
    assert follow["relay"] == [f"ws://127.0.0.1:{relay['port']}"]
    assert services["relay"]["network_mode"] == "service:follow"  # the relay listens on the loopback address alone
    assert mounts("relay").keys() == {str(relay["data"])}
    home = environment()["RANDYGPT_HOME"]
    assert (mounts("follow"), mounts("serve")) == ({home: []}, {home: ["ro"]})
    assert serve["api_key_file"] == Path("/run/secrets") / services["serve"]["secrets"][0]
    assert services["serve"]["ports"] == [f"127.0.0.1:{serve['port']}:{serve['port']}"]
    assert f"http://127.0.0.1:{serve['port']}/ready" in services["serve"]["healthcheck"]["test"][-1]


@pytest.mark.full
def test_copied_files_build_a_wheel(tmp_path: Path) -> None:
    for source in SOURCES:
        target = tmp_path / "source" / Path(source).name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(ROOT / source)
    subprocess.run(
        [*(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"), *("--wheel-dir", str(tmp_path)), "./source"],
        cwd=tmp_path,
        check=True,
        timeout=600,
    )
    [wheel] = tmp_path.glob("randygpt-*.whl")
    needs = subprocess.run(
        [sys.executable, str(tmp_path / "source" / "needs.py"), str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    assert "numpy" in needs
    assert "torch" not in needs
    assert "matplotlib" not in needs
