"""The Rust program's spelling of the command line, as ours. No I/O."""

from collections.abc import Mapping

_OWN_FLAGS = {"-h", "--help", "--version", "--install-completion", "--show-completion"}
_BARE = {"--resume": "--resume=", "--bpe": "--bpe=2000"}  # flags that may stand without a value
_PREFIX = "checkpoint"  # what its `--serve` answers with

# The Rust program takes every flag with every task, and looks at those that matter to it. How many values each has.
_TRAINING = dict.fromkeys(("--iters", "--train-file", "--lr", "--min-lr", "--batch", "--bpe"), 1) | {"--fine-tune": 0}
_DRAWING = dict.fromkeys(("--max-tokens", "--temperature", "--top-p"), 1)
_SERVING = {"--api-key": 1}
_SEED = {"--seed": 1}


def normalise(arguments: list[str]) -> list[str]:
    """Arguments that start with a flag are a `train`, `generate` or `serve`; `--resume` and `--bpe` may stand alone."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        words = [part for word in arguments for part in _parted(word)]
        if "--serve" in words:
            return ["serve", *_serve(_without(words, _TRAINING | _DRAWING | _SEED))]
        if "--generate" in words:
            return ["generate", *_generate(_without(words, _TRAINING | _SERVING))]
        arguments = ["train", *_without(words, _DRAWING | _SERVING)]
    if arguments[:1] != ["train"]:
        return arguments
    followers = [*arguments[1:], "-"]
    return [
        _BARE.get(argument, argument) if follower.startswith("-") else argument
        for argument, follower in zip(arguments, followers, strict=True)
    ]


def _parted(word: str) -> list[str]:
    """`--serve=ADDR` and `--generate=A` as two words."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag in {"--serve", "--generate"} else [word]


def _serve(arguments: list[str]) -> list[str]:
    """`--serve [ADDR]`: from a file, on `host:port`, `:port`, `host`, `[IPv6]:port` or a port."""
    rest, addresses = _take(_resumed(arguments), "--serve", most=1)
    address = addresses[0] if addresses else ""
    if address.isdecimal():
        host, port = "", address
    elif address.startswith("[") or address.count(":") > 1:
        host, _, port = address.removeprefix("[").partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = address.partition(":")
    if not {word.split("=")[0] for word in rest} & {"--checkpoint", "--model"}:
        rest += ["--checkpoint", _PREFIX]
    return rest + (["--host", host] if host else []) + (["--port", port] if port else [])


def _generate(arguments: list[str]) -> list[str]:
    """`--generate A B`: the prompts go last, behind a `--` in case one starts with a dash."""
    rest, prompts = _take(_resumed(arguments), "--generate")
    return [*rest, "--", *prompts]


def _resumed(arguments: list[str]) -> list[str]:
    """The checkpoint behind `--resume` as the model to use; without one, that of the prefix."""
    words = ["--model" + word.removeprefix("--resume") if word.startswith("--resume=") else word for word in arguments]
    if "--resume" not in words:
        return words
    rest, files = _take(words, "--resume", most=1)
    return rest + (["--model", *files] if files else [])


def _without(arguments: list[str], flags: Mapping[str, int]) -> list[str]:
    """Arguments without some flags and their values."""
    for word in arguments:
        flag, equals, _ = word.partition("=")
        if flag in flags:
            rest, _ = _take(arguments, word, most=0 if equals else flags[flag])
            return _without(rest, flags)
    return arguments


def _take(arguments: list[str], flag: str, *, most: int | None = None) -> tuple[list[str], list[str]]:
    """Arguments without a flag and the values behind it (up to the next flag), and those values."""
    start = arguments.index(flag)
    end = start + 1
    while end < len(arguments) and not arguments[end].startswith("-") and (most is None or end - start <= most):
        end += 1
    return arguments[:start] + arguments[end:], arguments[start + 1 : end]
