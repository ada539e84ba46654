"""The public API: its names, its example, and the cost of importing it."""

import subprocess
import sys
import textwrap

import pytest

import relay_client


@pytest.mark.parametrize("name", relay_client.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(relay_client, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Unknown'"):
        relay_client.Unknown  # type: ignore[attr-defined] # noqa: B018


async def test_example_of_the_docstring_runs(relay: str) -> None:
    lines = (relay_client.__doc__ or "").partition("\n\n")[2].partition("\n\n`Event.parse`")[0]
    body = textwrap.indent(textwrap.dedent(lines), "    ").replace("wss://relay.example", relay)
    scope: dict[str, object] = {}
    source = f"async def example(now):\n{body}\n    return event, answers\n"
    exec(compile(source, "docstring", "exec"), scope)  # noqa: S102 (it is our own docstring)
    event, answers = await scope["example"](1_790_000_000)  # type: ignore[operator]
    ((url, raw_event),) = answers
    assert (url, relay_client.Event.parse(raw_event)) == (relay, event)


def test_import_loads_no_network_library() -> None:
    heavy = "{'websockets', 'aiohttp', 'nostr_sdk', 'coincurve', 'torch'}"
    code = f"import sys, relay_client; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
