"""Commands on the folder of a release whose author chose misleading file names."""

import json
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.models import CONFIG, TOKENIZER
from support.release_store import ReleaseStore

from randygpt.checkpoint.release_folder import ReleaseFolder
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.errors import InvalidModelFile
from randygpt.model.tokenizer import CharTokenizer
from relay_client.keys import SecretKey
from server.models import load_release

FLAGS = ("--seed", "1", "--max-tokens", "30")


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(home=tmp_path, key=SecretKey.generate())


def misleading_files() -> dict[str, bytes]:
    """Return a sidecar with another vocabulary, and a second `.bin` file."""
    other = CharTokenizer([*TOKENIZER.chars[:2], *reversed(TOKENIZER.chars[2:])])
    return {
        "checkpoint.json": Sidecar(config=CONFIG, tokenizer=other, name="mallory").encode(),
        "another.bin": b"RGPT0002 but no checkpoint",
    }


def test_generate_and_serve_read_a_release_by_roles(tmp_path: Path, releases: ReleaseStore) -> None:
    release = releases.install(extra=misleading_files())
    served = load_release(release).language_model
    expected = served.generate("the", max_tokens=30, seed=1)
    for path in (release.folder, release.file("checkpoint").local_path):
        done = invoke(tmp_path, "generate", "the", "--model", path, *FLAGS)
        assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr


def test_show_and_export_read_a_release_by_roles(tmp_path: Path, releases: ReleaseStore) -> None:
    release = releases.install(extra=misleading_files())
    for name in ("tiny", release.folder):
        shown = json.loads(invoke(tmp_path, "show", name, "--json").stdout)
        assert Path(shown["file"]).name == "checkpoint.bin"
        assert shown["name"] in {"tiny", None}
    assert invoke(tmp_path, "export", release.folder, "out").returncode == 0
    exported = [path.read_text() for path in (tmp_path / "out").glob("*.json")]
    assert json.dumps(TOKENIZER.chars[2:6])[1:-1] in " ".join(exported)


@pytest.mark.parametrize(
    "files",
    [
        [],
        "x",
        [{"role": "checkpoint"}],
        [{"role": role, "path": "../x"} for role in ("checkpoint", "config", "tokenizer")],
        [{"role": role, "path": 1} for role in ("checkpoint", "config", "tokenizer")],
        [{"role": role, "path": "x"} for role in ("checkpoint", "config", "tokenizer", "config")],
    ],
)
def test_damaged_record_is_refused(tmp_path: Path, files: object) -> None:
    (tmp_path / "release.json").write_text(json.dumps({"release": "", "files": files}))
    with pytest.raises(InvalidModelFile, match="damaged"):
        ReleaseFolder.read(tmp_path)
    assert "damaged" in only_line(invoke(tmp_path, "show", tmp_path).stderr)


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"files": []}'])
def test_record_of_another_program_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "release.json").write_text(text)
    assert ReleaseFolder.read(tmp_path) is None
