"""docs/deploy.md for a test that runs its commands, and local sources of what they download."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import torch

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900


class Page:
    """Blocks of the page by heading, and rows of its tables."""

    def __init__(self) -> None:
        self._text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
        self._left = {block for blocks in self._sections("sh").values() for block in blocks}

    def block(self, heading: str, number: int = 0) -> str:
        """Return a block of shell commands, and count it as run."""
        block = self._sections("sh")[heading][number]
        self._left.discard(block)
        return block

    def override(self, heading: str) -> str:
        """Return the text to paste into `systemctl edit`."""
        return self._sections("ini")[heading][0]

    def advice(self, symptom: str) -> str:
        """Return the commands in the last column of a symptom's row."""
        [row] = [line for line in self._text.splitlines() if line.startswith("|") and symptom in line.split("|")[1]]
        return "\n".join(re.findall(r"`([^`]+)`", row.split("|")[3]))

    def left(self) -> set[str]:
        """Return the shell blocks that were not run."""
        return self._left

    def _sections(self, language: str) -> dict[str, list[str]]:
        found = {}
        for part in self._text.split("\n## ")[1:]:
            heading, _, body = part.partition("\n")
            found[heading] = re.findall(rf"^```{language}\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
        return found


def shell(script: str, folder: Path) -> str:
    """Run a script with the Python of the tests first on PATH; return its output."""
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Repository:
    """A git repository whose only commit is this checkout, with uncommitted changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = shell("git ls-files -z --cached --others --exclude-standard", ROOT)
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        shell("git init --quiet --initial-branch=main", folder)
        self._commit()

    def change(self, name: str, pattern: str, text: str) -> None:
        """Commit a change: replace the only match of a pattern in a file."""
        path = self.folder / name
        changed, count = re.subn(pattern, text, path.read_text(encoding="utf-8"))
        assert count == 1
        path.write_text(changed, encoding="utf-8")
        self._commit()

    def _commit(self) -> None:
        shell(
            "git add --all; git -c user.name=author -c user.email=author@example.org commit --quiet --message=changed",
            self.folder,
        )


def index(folder: Path, wheels: Path, packages: str) -> Path:
    """Make a package index of the program's runtime and build dependencies, and a torch.

    Its torch is a small wheel that puts the folder `packages`, where torch is installed, on the import path.
    """
    folder.mkdir()
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("randygpt-"):
            shutil.copy(wheel, folder)
    shell(f"pip wheel --quiet --wheel-dir '{folder}' 'hatchling>=1.25'", folder)
    _view_of_torch(folder, packages)
    for wheel in list(folder.glob("*.whl")):
        page = folder / re.sub("[_.]", "-", wheel.name.split("-")[0]).lower() / "index.html"
        page.parent.mkdir(exist_ok=True)
        with page.open("a") as file:
            file.write(f'<a href="../{quote(wheel.name)}">{wheel.name}</a>\n')
    return folder


def _view_of_torch(folder: Path, packages: str) -> None:
    version = torch.__version__
    facts = f"torch-{version}.dist-info"
    content = {
        "torch_of_the_tests.pth": f"{packages}\n",
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in content.items())
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in (content | {f"{facts}/RECORD": f"{record}{facts}/RECORD,,\n"}).items():
            wheel.writestr(name, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
