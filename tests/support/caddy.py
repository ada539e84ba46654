"""Caddy as a reverse proxy with TLS of its own authority, configured by a block of a documentation page."""

import contextlib
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 60
_GLOBAL = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tlocal_certs\n}\n"


def caddy() -> str:
    """Return the program; empty if it is not installed."""
    return shutil.which("caddy") or ""


def block(page: str, site: str) -> str:
    """Return the block of a site in a page below docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    [found] = [
        each for each in re.findall(r"^```caddy\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if each.startswith(site)
    ]
    return str(found)


@contextlib.contextmanager
def proxied(folder: Path, page: str, site: str, port: int, replaced: Mapping[str, str]) -> Iterator[Path]:
    """Run Caddy with the block of `site` at https://localhost:port; yield the certificate of its authority."""
    text = block(page, site).replace(site, f"https://localhost:{port}")
    for written, meant in replaced.items():
        assert written in text
        text = text.replace(written, meant)
    config = folder / "Caddyfile"
    config.write_text(_GLOBAL + text)
    env = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    command = [caddy(), "run", "--config", str(config), "--adapter", "caddyfile"]
    authority = folder / "caddy/pki/authorities/local/root.crt"
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_S
            while not _answers(port, authority):
                assert process.poll() is None, "Caddy ended"
                assert time.monotonic() < deadline, "Caddy did not start"
                time.sleep(0.1)
            yield authority
        finally:
            process.terminate()


def _answers(port: int, authority: Path) -> bool:
    if not authority.exists():
        return False
    context = ssl.create_default_context(cafile=str(authority))
    try:
        urllib.request.urlopen(f"https://localhost:{port}/", context=context, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # the proxied server is not started, or has nothing here
    except OSError:
        return False
    return True
