"""A Blossom server, asked for whole blobs."""

import urllib.error
import urllib.request


class Server:
    """Server at an origin that the user chose; redirects are not followed."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def get(self, sha256: str) -> bytes | None:
        """Return what the server sends for a hash, unverified; None if it has nothing."""
        request = urllib.request.Request(f"{self._origin}/{sha256}", headers={"Accept-Encoding": "identity"})
        try:
            with _OPENER.open(request, timeout=30) as response:
                return bytes(response.read())
        except (urllib.error.URLError, OSError):
            return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
