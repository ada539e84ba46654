"""Installs of the programs that the benchmark compares with, in folders of their own. Uses pip and npm.

Each function installs once, and returns in words why that was not possible, or nothing.
"""

import functools
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
PACKAGES = PEERS / ".packages"
LIBRARIES = PEERS / "node_modules" / "@node-llama-cpp" / "linux-x64" / "bins" / "linux-x64"


@functools.cache
def python_packages() -> str:
    """Install what writes models for the peers, and CTranslate2."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    requirements = PEERS / "requirements.txt"
    return _install([*pip, "--target", str(PACKAGES), "--requirement", str(requirements)], requirements, PACKAGES)


@functools.cache
def llama_cpp() -> str:
    """Install the built library of llama.cpp that an npm package has."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the npm package of llama.cpp is for Linux on x86-64"
    if not shutil.which("npm"):
        return "npm is not installed"
    npm = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
    manifest = PEERS / "package.json"
    reason = _install([*npm, "--prefix", str(PEERS)], manifest, PEERS / "node_modules")
    return reason or python_packages()


@functools.cache
def compiler() -> str:
    """Look for the C++ compiler that torch.compile needs."""
    return "" if any(map(shutil.which, ("g++", "c++", "clang++"))) else "torch.compile needs a C++ compiler"


def _install(command: Sequence[str], wanted: Path, folder: Path) -> str:
    """Run a command that installs the list `wanted` into a folder, unless that was done."""
    stamp = folder / ".installed"  # holds the list
    if stamp.is_file() and stamp.read_bytes() == wanted.read_bytes():
        return ""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        return f"{wanted.relative_to(PEERS.parent)} cannot be installed ({lines[-1].strip():.120})"
    stamp.write_bytes(wanted.read_bytes())
    return ""
