"""The web page: its static files, and the release metadata that it polls. Reads files."""

import asyncio
import hashlib
from importlib import resources

import orjson
from aiohttp import web

from server.middleware import NOT_MODIFIED, Handler
from server.models import ActiveModel
from server.provenance import Provenance, page_facts

_CONTENT_TYPES = {"page.css": "text/css", "page.js": "text/javascript", "model.js": "text/javascript"}
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class Page:
    """Routes of the page: public files, and /provenance."""

    def __init__(self, active: ActiveModel, provenance: Provenance | None, *, needs_key: bool) -> None:
        self._active = active
        self._provenance = provenance
        self._needs_key = needs_key
        folder = resources.files("server") / "web"
        self._files = {name: (folder / name).read_bytes() for name in ("index.html", *_CONTENT_TYPES)}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to add to the application."""
        files = [web.get(f"/{name}", self._file_handler(name, kind)) for name, kind in _CONTENT_TYPES.items()]
        return [
            web.get("/", self._file_handler("index.html", "text/html")),
            *files,
            web.get("/provenance", self._get_facts),
        ]

    async def _get_facts(self, request: web.Request) -> web.Response:
        loaded, failure = self._active.current, self._active.failure
        facts = await asyncio.to_thread(page_facts, loaded, failure, self._provenance, needs_key=self._needs_key)
        return _cached_response(request, orjson.dumps(facts), "application/json")

    def _file_handler(self, name: str, content_type: str) -> Handler:
        async def send(request: web.Request) -> web.Response:
            response = _cached_response(request, self._files[name], content_type)
            response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
            response.headers["Referrer-Policy"] = "no-referrer"
            return response

        return send


def _cached_response(request: web.Request, body: bytes, content_type: str) -> web.Response:
    """Return the body with an ETag, or 304 if the browser has it already."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        response = web.Response(status=NOT_MODIFIED)
    else:
        response = web.Response(body=body, content_type=content_type, charset="utf-8")
    response.etag = tag
    response.headers["Cache-Control"] = "no-cache"  # the browser keeps it, and revalidates each time
    return response
