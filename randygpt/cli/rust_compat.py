"""Translation of the Rust program's command lines (`randygpt --iters 1000`) into subcommands. No I/O.

They train with the classic recipe and its defaults, those of the Rust program.
"""

from collections.abc import Mapping

_OWN_FLAGS = {"-h", "--help", "--version", "--install-completion", "--show-completion"}
_BARE = {"--resume": "--resume=", "--bpe": "--bpe=2000"}  # flags whose value is optional
_PREFIX = "checkpoint"  # checkpoint prefix that it uses

# The Rust program accepts every flag with every task and ignores the rest. The number is how many values a flag has.
_TRAINING = dict.fromkeys(("--iters", "--train-file", "--lr", "--min-lr", "--batch", "--bpe"), 1) | {"--fine-tune": 0}
_SAMPLING = dict.fromkeys(("--max-tokens", "--temperature", "--top-p"), 1)
_SERVING = {"--api-key": 1}
_SEED = {"--seed": 1}


def normalise(arguments: list[str]) -> list[str]:
    """Return arguments with a subcommand: `train`, `generate` or `serve` if they start with a flag.

    Also gives `--resume` and `--bpe` of `train` a value if they have none.
    """
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        words = [part for word in arguments for part in _split_equals(word)]
        if "--serve" in words:
            return ["serve", *_serve(_without(words, _TRAINING | _SAMPLING | _SEED))]
        if "--generate" in words:
            return ["generate", *_generate(_without(words, _TRAINING | _SERVING))]
        arguments = ["train", *_recipe(words), *_without(words, _SAMPLING | _SERVING)]
    if arguments[:1] != ["train"]:
        return arguments
    followers = [*arguments[1:], "-"]
    return [
        _BARE.get(argument, argument) if follower.startswith("-") else argument
        for argument, follower in zip(arguments, followers, strict=True)
    ]


def _recipe(words: list[str]) -> list[str]:
    """Return the flag that chooses the classic recipe for a new run; a resumed run keeps its own."""
    flags = {word.partition("=")[0] for word in words}
    keeps_its_own = "--resume" in flags and "--fine-tune" not in flags
    return [] if keeps_its_own or "--recipe" in flags else ["--recipe", "classic"]


def _split_equals(word: str) -> list[str]:
    """Split `--serve=ADDR` and `--generate=A` into two words."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag in {"--serve", "--generate"} else [word]


def _serve(arguments: list[str]) -> list[str]:
    """Translate `--serve [ADDR]`, where ADDR is `host:port`, `:port`, `host`, `[IPv6]:port` or a port."""
    rest, addresses = _take(_resume_as_model(arguments), "--serve", most=1)
    address = addresses[0] if addresses else ""
    if address.isdecimal():
        host, port = "", address
    elif address.startswith("[") or address.count(":") > 1:
        host, _, port = address.removeprefix("[").partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = address.partition(":")
    rest = _name_checkpoint(rest)
    return rest + (["--host", host] if host else []) + (["--port", port] if port else [])


def _generate(arguments: list[str]) -> list[str]:
    """Translate `--generate A B`: move the prompts to the end, after `--` in case one starts with a dash."""
    rest, prompts = _take(_resume_as_model(arguments), "--generate")
    rest = _name_checkpoint(rest)
    return [*rest, "--", *prompts]


def _name_checkpoint(arguments: list[str]) -> list[str]:
    """Add the prefix that the Rust program uses, unless a model is named."""
    named = {word.split("=")[0] for word in arguments} & {"--checkpoint", "--model"}
    return arguments if named else [*arguments, "--checkpoint", _PREFIX]


def _resume_as_model(arguments: list[str]) -> list[str]:
    """Replace `--resume FILE` by `--model FILE`, and drop a bare `--resume`."""
    words = ["--model" + word.removeprefix("--resume") if word.startswith("--resume=") else word for word in arguments]
    if "--resume" not in words:
        return words
    rest, files = _take(words, "--resume", most=1)
    return rest + (["--model", *files] if files else [])


def _without(arguments: list[str], flags: Mapping[str, int]) -> list[str]:
    """Remove some flags and their values."""
    for word in arguments:
        flag, equals, _ = word.partition("=")
        if flag in flags:
            rest, _ = _take(arguments, word, most=0 if equals else flags[flag])
            return _without(rest, flags)
    return arguments


def _take(arguments: list[str], flag: str, *, most: int | None = None) -> tuple[list[str], list[str]]:
    """Remove a flag and up to `most` values after it; return the other arguments and the values."""
    start = arguments.index(flag)
    end = start + 1
    while end < len(arguments) and not arguments[end].startswith("-") and (most is None or end - start <= most):
        end += 1
    return arguments[:start] + arguments[end:], arguments[start + 1 : end]
