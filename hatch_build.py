"""Build hook: compiles the decode step (randygpt/model/decode_step.c) where a C compiler is at hand.

Without a compiler, or with RANDYGPT_DECODE_KERNEL=0, the package is pure Python and decodes with numpy alone.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = Path("randygpt/model/decode_step.c"), Path("randygpt/model/decode_step.so")
FLAGS = "-std=gnu11 -O3 -fPIC -shared -pthread -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to a wheel, or to the checkout of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is shown, and leaves the library out."""
        del version
        if self.target_name != "wheel" or os.environ.get("RANDYGPT_DECODE_KERNEL") == "0":
            return
        if failure := compile_library(Path(self.root)):
            self.app.display_warning(f"the decode step is not compiled, numpy decodes alone: {failure}")
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{wheel_platform()}"


def compile_library(root: Path) -> str | None:
    """Compile the library into the source tree; return why it failed, or None."""
    source, library = root / SOURCE, root / LIBRARY
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    scratch = library.with_suffix(f".{os.getpid()}.tmp")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *FLAGS.split(), f'-DSOURCE_SHA256="{digest}"', "-o", str(scratch), str(source), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (the user's compiler)
        scratch.replace(library)
    except FileNotFoundError:
        return f"{compiler[0]} is not installed"
    except subprocess.CalledProcessError as error:
        return f"{compiler[0]} failed: {error.stderr.strip() or error.returncode}"
    finally:
        scratch.unlink(missing_ok=True)
    return None


def wheel_platform() -> str:
    """Return the platform tag of a wheel with the library, which needs this machine's C library or a newer one."""
    if sys.platform == "linux" and (libc := platform.libc_ver())[0] == "glibc":
        return f"manylinux_{libc[1].replace('.', '_')}_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
