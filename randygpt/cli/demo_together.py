"""`randygpt demo --together`: a base, three forks and a liar, their merge, and a check of it."""

import contextlib
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from randygpt.cli.demo_stage import PROMPT, Client, Stage, check, free_port, say

_AUTHOR, _FRIENDS, _LIAR, _OTHER = "ann", ("ann", "bob", "cleo"), "mallory", "dora"
_PARTS = 5  # of the text: for the base, for each fork, and one held out
_BASE_ITERS = 300
_FORK_ITERS = 120
_LIE = -10  # times the change of another fork
_CLAIMED_LOSS = 0.5  # of the lie: lower than any
_TEST_SIZE = 40_000  # characters of the text for the comparison
_SAMPLE_TOKENS = 240
_WIDTH = 76  # of the sample, in characters


def run_together(stage: Stage) -> dict[str, object]:
    """Run every step, and return the figures of the merge; raises DemoFailed."""
    with contextlib.ExitStack() as stack:
        say("Everybody creates a key:")
        keys = {user: stage.text(user, "keys", "new") for user in (*_FRIENDS, _LIAR, _OTHER)}
        say("\nStart a local relay for events, and a Blossom server for files, open to these keys:")
        blobs = str(free_port())
        allowed = [word for npub in keys.values() for word in ("--allow", npub)]
        words = ("--memory", "--port", str(free_port()), "--blobs", blobs, *allowed)
        relay = stack.enter_context(stage.background(_AUTHOR, "relay", *words))
        for user in keys:
            stage.text(user, "relays", "add", relay, shown=False)
            stage.text(user, "servers", "add", f"http://127.0.0.1:{blobs}", shown=False)
        texts = _write_texts(stage.folder)

        say(f"\n{_AUTHOR} trains a base on the first part of the Python manual, and publishes it:")
        stage.text(_AUTHOR, "train", texts[0], "--iters", str(_BASE_ITERS), "--checkpoint", "manual", "--quiet")
        base = _publish(stage, _AUTHOR, "manual")

        say(f"\n{', '.join(_FRIENDS)} each train a fork of it, on a part that stays with them, and publish it:")
        forks = {
            user: _fork(stage, user, base, text)
            for user, text in zip(_FRIENDS, texts[1 : 1 + len(_FRIENDS)], strict=True)
        }
        say(f"\n{_LIAR} publishes bob's change to the base, turned around and {-_LIE} times as large:")
        forks[_LIAR] = _lie(stage, base, forks["bob"])

        say(f"\n{_AUTHOR} sees who built on the base, and merges the forks:")
        listed = {fork["release"] for fork in stage.json(_AUTHOR, "forks", base["release"], "--json")["forks"]}
        check(listed == {fork["release"] for fork in forks.values()}, "the relay lists other forks")
        figures = _merge(stage, forks, texts[-1])
        merge = _publish(stage, _AUTHOR, "merged", "--name", "manual")

        say(f"\n{_OTHER} fetches the merge, sees what it was made from, and makes it again:")
        fetched = stage.json(_OTHER, *shlex.split(merge["fetch"])[1:], "--json")
        check(fetched["release"] == merge["release"], "another release was fetched")
        say(textwrap.indent(stage.text(_OTHER, "log"), "  "))
        verified = stage.text(_OTHER, "verify", "current", "--merge", "--yes", "--quiet")
        check(verified.startswith("same "), "the merge could not be made again")
        say("  the same bytes")

        say(f"\n{_OTHER} serves it:")
        client = Client(stack.enter_context(stage.background(_OTHER, "serve", "--port", "0")))
        text, release = client.ask(max_tokens=_SAMPLE_TOKENS, temperature=0.6, seed=1)
        check(release == merge["release"], "the server replied from another release")
        lines = f"{PROMPT}{text}".splitlines()
        say("\n".join(textwrap.indent(textwrap.fill(line, _WIDTH), "  ") for line in lines))
        return {"release": merge["release"], "keys": keys, **figures, "sample": text}


def _write_texts(folder: Path) -> list[str]:
    """Cut the built-in text into one file for the base, one for each fork, and a short one for the comparison."""
    from randygpt.training.text import Text

    whole = "".join(Text.built_in())
    size = len(whole) // _PARTS
    names = ["base.txt", *(f"{user}.txt" for user in _FRIENDS), "held-out.txt"]
    for number, name in enumerate(names):
        length = _TEST_SIZE if number == _PARTS - 1 else size
        (folder / name).write_text(whole[size * number : size * number + length], encoding="utf-8")
    return names


def _publish(stage: Stage, user: str, *words: str) -> dict[str, Any]:
    published = stage.json(user, "publish", *words, "--weights-only", "--no-relay-chunks", "--quiet", "--json")
    say(f"  published {published['name']} version {published['version']}: {published['release'][:16]}…")
    return published


def _fork(stage: Stage, user: str, base: Mapping[str, Any], text: str) -> dict[str, Any]:
    name = f"manual-{user}"
    words = ("train", text, "--from", base["naddr"], "--iters", str(_FORK_ITERS), "--checkpoint", name, "--quiet")
    stage.text(user, *words)
    return _publish(stage, user, name)


def _lie(stage: Stage, base: Mapping[str, Any], fork: Mapping[str, Any]) -> dict[str, Any]:
    """Publish a release that undoes a fork's change many times over, and claims a low loss."""
    from randygpt.checkpoint.header import CheckpointHeader
    from randygpt.checkpoint.origin import Origin
    from randygpt.checkpoint.rgpt import Checkpoint, read_checkpoint
    from randygpt.checkpoint.save import save_checkpoint
    from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint
    from relay_client.nip19 import decode_pubkey

    fetched = [stage.json(_LIAR, *shlex.split(each["fetch"])[1:], "--json") for each in (base, fork)]
    found = [inspect_checkpoint(_checkpoint(each)) for each in fetched]
    start, changed = (read_checkpoint(each.path, each.config).weights for each in found)
    tokenizer = found[0].tokenizer
    assert tokenizer is not None
    header = CheckpointHeader(
        magic="RGPT0002", vocab_size=found[0].header.vocab_size, iteration=0, step=0, best_loss=_CLAIMED_LOSS
    )
    lie = Checkpoint(
        header=header, config=found[0].config, weights=start + _LIE * (changed - start), optimizer_state=None
    )
    sidecar = Sidecar(
        config=found[0].config,
        tokenizer=tokenizer,
        name=f"manual-{_LIAR}",
        losses={"best_val": _CLAIMED_LOSS},
        base=Origin(release=bytes.fromhex(base["release"]), author=decode_pubkey(fetched[0]["author"])),
    )
    save_checkpoint(stage.folder / f"manual-{_LIAR}.bin", lie, sidecar)
    return _publish(stage, _LIAR, f"manual-{_LIAR}")


def _checkpoint(fetched: Mapping[str, Any]) -> Path:
    return Path(next(file["local"] for file in fetched["files"] if file["role"] == "checkpoint"))


def _merge(stage: Stage, forks: Mapping[str, Mapping[str, Any]], text: str) -> dict[str, object]:
    """Merge all forks, show what each is worth on a held-out text, and check that the merge is better."""
    words = ("--robust", "--eval", text, "--out", "merged", "--json")
    merged = stage.json(_AUTHOR, "merge", *(fork["release"] for fork in forks.values()), *words)
    inputs = {each["release"]: each for each in merged["inputs"]}
    figures = dict(zip(inputs, merged["eval"]["inputs"], strict=True))
    bits = {user: figures[fork["release"]] for user, fork in forks.items()}
    reasons = {user: inputs[fork["release"]]["reason"] for user, fork in forks.items()}
    say("  bits per byte of a held-out text:")
    say(f"    {merged['eval']['base']:8.4f}  base")
    for user, value in bits.items():
        say(f"    {value:8.4f}  {user}{f', left out: {reasons[user]}' if reasons[user] else ''}")
    say(f"    {merged['eval']['merged']:8.4f}  merge")
    check([user for user in forks if reasons[user]] == [_LIAR], "not the liar alone was left out")
    best = min(merged["eval"]["base"], *bits.values())
    check(merged["eval"]["merged"] < best, "the merge is not better than every other model")
    return {"base": merged["eval"]["base"], "forks": bits, "merge": merged["eval"]["merged"]}
