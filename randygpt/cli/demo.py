"""`randygpt demo`: the real commands from training to a model swap, in a temporary folder."""

import contextlib
import hashlib
import io
import shlex
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from randygpt.cli.demo_stage import PROMPT, Client, DemoFailed, Stage, check, free_port, say, shortened
from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit, format_size

_FIRST_ITERS = 600
_MORE_ITERS = 700
_SAMPLE_TOKENS = 320
_WIDTH = 76  # of the sample, in characters


def demo(
    together: Annotated[
        bool, typer.Option("--together", help="Show how several people train one model: forks and a merge.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, publish, fetch and serve a model on this machine.

    Then publishes a new version, which the server loads while a client sends requests. Uses a temporary folder and
    deletes it at the end.
    """
    from randygpt.cli.demo_together import run_together

    run = run_together if together else _run
    started = time.monotonic()
    narration = io.StringIO() if as_json or quiet else sys.stdout
    try:
        with contextlib.redirect_stdout(narration), tempfile.TemporaryDirectory(prefix="randygpt-demo-") as folder:
            result = run(Stage(Path(folder)))
    except DemoFailed as failure:
        sys.stdout.write(f"\nThe demo FAILED: {failure}\n")
        raise typer.Exit(1) from None
    seconds = round(time.monotonic() - started, 1)
    text = f"Done in {seconds:.0f} s. All processes have stopped and all files are deleted."
    emit(as_json, result | {"seconds": seconds}, text if quiet else f"\n{text}")


def _run(stage: Stage) -> dict[str, object]:
    """Run every step and return the replies that the client received."""
    with contextlib.ExitStack() as stack:
        say("Start a local relay for events, and a Blossom server for files:")
        blobs = str(free_port())
        words = ("--memory", "--port", str(free_port()), "--blobs", blobs)
        relay = stack.enter_context(stage.background("author", "relay", *words))
        say("\nThe author creates a key. The secret key stays in a private file; this is the public key:")
        say(f"  {stage.text('author', 'keys', 'new')}")
        stage.text("author", "relays", "add", relay)
        stage.text("author", "servers", "add", f"http://127.0.0.1:{blobs}")

        say(f"\nThe author trains a small model for {_FIRST_ITERS} iterations on the Python manual:")
        _train(stage, "--iters", str(_FIRST_ITERS))
        first = _publish(stage)

        say("\nA friend with an empty home pastes the line that `publish` printed, and every byte is verified:")
        _fetch(stage, first)

        say("\nThe friend serves it over HTTP:")
        address = stack.enter_context(stage.background("friend", "serve", "--port", "0"))
        client = Client(address)
        _, release = client.ask()
        say(f"  a reply from release {release[:16]}…")
        check(release == first["release"], "the server replied from another release")

        say("\nUnder load from a client, the author publishes version 2 and the friend fetches it:")
        with client.keep_asking():
            _train(stage, "--resume", "--iters", str(_MORE_ITERS))
            second = _publish(stage)
            check(second["version"] == first["version"] + 1, "the second publish is not version 2")
            _fetch(stage, second)
            client.wait_for(second["release"])
        say("\nThe client received:")
        for release, count in client.replies.items():
            say(f"  {count} replies from {release[:16]}…")
        say(f"  {len(client.failures)} requests failed")
        check(not client.failures, f"requests failed: {client.failures[:1]}")
        check(set(client.replies) == {first["release"], second["release"]}, "the client did not see the swap")
        text, _ = client.ask(max_tokens=_SAMPLE_TOKENS, temperature=0.6, seed=1)
        say("\nThe friend's server writes:")
        say("\n".join(textwrap.indent(textwrap.fill(line, _WIDTH), "  ") for line in f"{PROMPT}{text}".splitlines()))
        return {"replies": dict(client.replies), "failed": len(client.failures), "sample": text}


def _train(stage: Stage, *words: str) -> None:
    """Train with the default recipe, and show what was reached."""
    reached = stage.text("author", "train", "--checkpoint", "demo", *words)
    say(textwrap.indent("\n".join(reached.splitlines()[:3]), "  "))


def _publish(stage: Stage) -> dict[str, Any]:
    started = time.monotonic()
    published = stage.json("author", "publish", "demo", "--no-relay-chunks", "--quiet", "--json")
    took = time.monotonic() - started
    checkpoint = published["files"][0]
    say(f"  published as version {published['version']}: {published['release']}")
    say(f"  {checkpoint['path']}, {format_size(checkpoint['size'])}, sha256 {checkpoint['sha256'][:16]}…")
    files = sum(server["uploaded"] for server in published["servers"].values())
    rate = f"{format_size(sum(file['size'] for file in published['files']) / took)}/s, including program start"
    say(f"  {files} files on the Blossom server, {published['events']} signed events on the relay; {rate}")
    local = hashlib.sha256((stage.folder / "demo_best.bin").read_bytes()).hexdigest()
    check(local == checkpoint["sha256"], "the published hash differs from that of the file")
    say(f"  for a friend: {shortened(shlex.split(published['fetch']))}")
    return published


def _fetch(stage: Stage, published: dict[str, Any]) -> None:
    started = time.monotonic()
    fetched = stage.json("friend", *shlex.split(published["fetch"])[1:], "--json")
    took = time.monotonic() - started
    file = next(file for file in fetched["files"] if file["role"] == "checkpoint")
    check(fetched["release"] == published["release"], "another release was fetched")
    same = hashlib.sha256(Path(file["local"]).read_bytes()).hexdigest() == published["files"][0]["sha256"]
    check(same, "the fetched file differs from the published one")
    chunks = fetched["chunks"]
    check(all(server["bytes"] for server in fetched["servers"].values()), "the Blossom server was not used")
    say(f"  version {fetched['version']} of {fetched['name']} by {fetched['author'][:16]}…: identical bytes")
    counts = ", ".join(f"{count} {what}" for what, count in chunks.items())
    say(f"  chunks: {counts}; {format_size(file['size'] / took)}/s, including program start")
