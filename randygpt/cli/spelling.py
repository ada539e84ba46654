"""The Rust program's spelling of the command line, as ours. No I/O."""

_OWN_FLAGS = {"-h", "--help", "--version", "--install-completion", "--show-completion"}
_BARE = {"--resume": "--resume=", "--bpe": "--bpe=2000"}  # flags that may stand without a value
_PREFIX = "checkpoint"  # what its `--serve` answers with


def normalise(arguments: list[str]) -> list[str]:
    """Arguments that start with a flag are a `train`, `generate` or `serve`; `--resume` and `--bpe` may stand alone."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        if "--serve" in arguments:
            return ["serve", *_serve(arguments)]
        if "--generate" in arguments:
            return ["generate", *_generate(arguments)]
        arguments = ["train", *arguments]
    if arguments[:1] != ["train"]:
        return arguments
    followers = [*arguments[1:], "-"]
    return [
        _BARE.get(argument, argument) if follower.startswith("-") else argument
        for argument, follower in zip(arguments, followers, strict=True)
    ]


def _serve(arguments: list[str]) -> list[str]:
    """`--serve [ADDR]`: from a file, on `host:port`, `:port` or `host`."""
    rest, address = _take(_without_bpe(arguments), "--serve", most=1)
    host, _, port = (address[0] if address else "").partition(":")
    if not any(word.split("=")[0] == "--checkpoint" for word in rest):
        rest += ["--checkpoint", _PREFIX]
    return rest + (["--host", host] if host else []) + (["--port", port] if port else [])


def _generate(arguments: list[str]) -> list[str]:
    """`--generate A B`: the prompts go last, behind a `--` in case one starts with a dash."""
    rest, prompts = _take(_without_bpe(arguments), "--generate")
    return [*rest, "--", *prompts]


def _without_bpe(arguments: list[str]) -> list[str]:
    """A checkpoint has its tokenizer beside it: there is nothing to say about it."""
    return _take(arguments, "--bpe", most=1)[0] if "--bpe" in arguments else arguments


def _take(arguments: list[str], flag: str, *, most: int | None = None) -> tuple[list[str], list[str]]:
    """Arguments without a flag and the values behind it (up to the next flag), and those values."""
    start = arguments.index(flag)
    end = start + 1
    while end < len(arguments) and not arguments[end].startswith("-") and (most is None or end - start <= most):
        end += 1
    return arguments[:start] + arguments[end:], arguments[start + 1 : end]
