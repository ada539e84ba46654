"""The page for a browser: its files, and what it asks for. Reads files."""

import asyncio
from importlib import resources

from aiohttp import web

from server.guard import Handler
from server.models import Serving
from server.provenance import Provenance, encode, told

_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Page:
    """Its files, which anybody may have, and what it tells of the model."""

    def __init__(self, serving: Serving, provenance: Provenance | None) -> None:
        self._serving = serving
        self._provenance = provenance
        folder = resources.files("server") / "web"
        self._files = {name: (folder / name).read_bytes() for name in ("index.html", *_TYPES)}

    def routes(self) -> list[web.RouteDef]:
        """The files."""
        return [web.get("/", self._sender("index.html", "text/html"))] + [
            web.get(f"/{name}", self._sender(name, kind)) for name, kind in _TYPES.items()
        ]

    async def provenance(self, request: web.Request) -> web.Response:
        """What it tells of the model; 304 if that is what the browser has."""
        loaded, failure = self._serving.current, self._serving.failure
        body, tag = encode(await asyncio.to_thread(told, loaded, failure, self._provenance))
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        if any(known.value == tag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers, content_type="application/json", charset="utf-8")

    def _sender(self, name: str, kind: str) -> Handler:
        async def send(_: web.Request) -> web.Response:
            return web.Response(body=self._files[name], headers=_HEADERS, content_type=kind, charset="utf-8")

        return send
