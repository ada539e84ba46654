"""The OpenAPI document, generated from the fields that requests are validated with. No I/O."""

from typing import Any

from server.fields import Schema, object_schema
from server.schema import CHAT, COMPLETION, PLAIN, ROLES

_ERROR = {"type": "object", "required": ["error"]}
_ERRORS = {
    "400": "The request is invalid.",
    "401": "A valid API key is required.",
    "403": "The Host or Origin header is not allowed, or the server has no API key for this route.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "Too many sequences or tokens of this key.",
    "503": "Too many sequences, or no model is loaded yet; retry later.",
}


def document() -> Schema:
    """Return the OpenAPI 3.1 document."""
    text = {"type": "string", "description": "Text to continue."}
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
                "get": _operation("The web page", kind="text/html"),
                "post": _operation("A completion, in randyGPT's (the Rust program's) format", plain),
            },
            "/provenance": {"get": _operation("The active release and its author, other releases, relay status")},
            "/v1/completions": {
                "post": _operation("Completions, in OpenAI's format", object_schema(COMPLETION), streams=True)
            },
            "/v1/chat/completions": {
                "post": _operation("The next message of a chat, in OpenAI's format", chat, streams=True)
            },
            "/v1/models": {"get": _operation("The active model")},
            "/openapi.json": {"get": _operation("This document")},
            "/health": {"get": _operation("The active model, and why the newest release is not active")},
            "/ready": {"get": _operation("200 if a model is loaded, else 503")},
            "/metrics": {"get": _operation("Metrics for Prometheus", kind="text/plain")},
            "/admin/reload": {"post": _operation("Check the store's current release now") | {"security": key}},
            "/admin/use": {
                "post": _operation("Make another installed release active until the current one changes", use)
                | {"security": key}
            },
        },
    }


def _operation(
    summary: str, body: Schema | None = None, *, streams: bool = False, kind: str = "application/json"
) -> Schema:
    content: dict[str, Any] = {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    errors = {
        status: {"description": description, "content": {"application/json": {"schema": _ERROR}}}
        for status, description in _ERRORS.items()
    }
    operation: Schema = {
        "summary": summary,
        "responses": {"200": {"description": "Success.", "content": content}} | errors,
    }
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _messages() -> Schema:
    part = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    message = {
        "type": "object",
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": part}]},
        },
        "required": ["role"],
    }
    return {"type": "array", "items": message, "minItems": 1, "description": "The conversation so far."}
