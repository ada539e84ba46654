"""Description of the machine and the versions that a report was measured with. Reads /proc and starts git."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path


def machine() -> dict[str, object]:
    """Return commit, date, machine, load and versions."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "commit": git("rev-parse", "--short", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
    }


def git(*arguments: str) -> str:
    """Return the output of git; empty outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return done.stdout.strip()
