"""The page for a browser: its files, and what it asks for. Reads files."""

import asyncio
import hashlib
from importlib import resources

import orjson
from aiohttp import web

from server.middleware import NOT_MODIFIED, Handler
from server.models import ActiveModel
from server.provenance import Provenance, told

_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class Page:
    """Its files, which anybody may have, and what it tells of the model."""

    def __init__(self, active: ActiveModel, provenance: Provenance | None) -> None:
        self._active = active
        self._provenance = provenance
        folder = resources.files("server") / "web"
        self._files = {name: (folder / name).read_bytes() for name in ("index.html", *_TYPES)}

    def routes(self) -> list[web.RouteDef]:
        """The files."""
        return [web.get("/", self._sender("index.html", "text/html"))] + [
            web.get(f"/{name}", self._sender(name, kind)) for name, kind in _TYPES.items()
        ]

    async def provenance(self, request: web.Request) -> web.Response:
        """What it tells of the model."""
        loaded, failure = self._active.current, self._active.failure
        facts = await asyncio.to_thread(told, loaded, failure, self._provenance)
        return _response(request, orjson.dumps(facts), "application/json")

    def _sender(self, name: str, kind: str) -> Handler:
        async def send(request: web.Request) -> web.Response:
            response = _response(request, self._files[name], kind)
            response.headers["Content-Security-Policy"] = _POLICY
            response.headers["Referrer-Policy"] = "no-referrer"
            return response

        return send


def _response(request: web.Request, body: bytes, kind: str) -> web.Response:
    """These bytes, or 304 if they are what the browser has."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        response = web.Response(status=NOT_MODIFIED)
    else:
        response = web.Response(body=body, content_type=kind, charset="utf-8")
    response.etag = tag
    response.headers["Cache-Control"] = "no-cache"  # kept, and asked after each time
    return response
