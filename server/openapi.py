"""The OpenAPI document, made of the definitions that requests are checked with. No I/O."""

from typing import Any

from server.fields import Schema, object_schema
from server.schema import CHAT, COMPLETION, PLAIN, ROLES

_ERROR = {"type": "object", "required": ["error"]}
_FAILURES = {
    "400": "The request is wrong.",
    "401": "A valid API key is required.",
    "403": "Not from there.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "Too many requests with this key.",
    "503": "Too many requests, or no model yet; try again later.",
}


def document() -> Schema:
    """All of it."""
    text = {"type": "string", "description": "What to go on from."}
    plain = object_schema(PLAIN, required=("prompt",))
    plain["properties"]["prompt"] = text
    chat = object_schema(CHAT, required=("messages",))
    chat["properties"]["messages"] = _messages()
    use = {"type": "object", "properties": {"release": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}}}
    key: list[Schema] = [{"key": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "randygpt", "version": "1"},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, *key],
        "paths": {
            "/": {
                "get": _operation("The page for a browser", kind="text/html"),
                "post": _operation("A completion, as the Rust program has it", plain),
            },
            "/provenance": {"get": _operation("Whose the model is, and which others are here")},
            "/v1/completions": {"post": _operation("Completions", object_schema(COMPLETION), streams=True)},
            "/v1/chat/completions": {"post": _operation("The next turn of a chat", chat, streams=True)},
            "/v1/models": {"get": _operation("The model that answers")},
            "/openapi.json": {"get": _operation("This document")},
            "/health": {"get": _operation("What is served, and why not the newest release")},
            "/ready": {"get": _operation("Whether there is a model to answer with")},
            "/metrics": {"get": _operation("Counts and times for Prometheus", kind="text/plain")},
            "/admin/reload": {"post": _operation("Look at the store's current release now") | {"security": key}},
            "/admin/use": {"post": _operation("Serve another stored release for now", use) | {"security": key}},
        },
    }


def _operation(
    summary: str, body: Schema | None = None, *, streams: bool = False, kind: str = "application/json"
) -> Schema:
    content: dict[str, Any] = {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    failures = {
        status: {"description": words, "content": {"application/json": {"schema": _ERROR}}}
        for status, words in _FAILURES.items()
    }
    operation: Schema = {
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": content}} | failures,
    }
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _messages() -> Schema:
    part = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    turn = {
        "type": "object",
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]},
        },
        "required": ["role", "content"],
    }
    return {"type": "array", "items": turn, "minItems": 1, "description": "The turns so far."}
