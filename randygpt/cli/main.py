"""The command `randygpt`: its commands, and what an error means to a shell.

Exit codes: 0 done · 1 bug · 2 usage, or a local input that is wrong · 3 refused: not trusted, or what came does not
verify · 4 not reachable or incomplete, a rerun goes on · 5 local disk or store · 130 interrupted, 143 terminated.
"""

import re
import sys
from typing import Annotated, Any

import typer

import randygpt
from randygpt.cli import (
    config,
    demo,
    export,
    fetch,
    follow,
    gc,
    generate,
    installed,
    keys,
    plot,
    publish,
    relays,
    reseed,
    revoke,
    serve,
    show,
    train,
    trust,
    verify,
)
from randygpt.cli.output import print_stderr
from randygpt.cli.rust_compat import normalise
from randygpt.cli.settings import default_map, parameters
from randygpt.cli.signals import handle_termination
from randygpt.errors import CallerError, PeerError, StorageError, TransportError, translate_os_errors

# All errors of the command line's own parser; the name of the base class is not part of typer's interface.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="randygpt",
    help="Train a small GPT, share it as signed nostr events, fetch it by its event id, serve it.",
    epilog="Start with: randygpt demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("show", epilog=show.EXAMPLE)(show.show)
app.command("plot", epilog=plot.EXAMPLE)(plot.plot)
app.command("export", epilog=export.EXPORT_EXAMPLE)(export.export)
app.command("import", epilog=export.IMPORT_EXAMPLE)(export.import_model)
app.command("publish", epilog=publish.EXAMPLE)(publish.publish)
app.command("fetch", epilog=fetch.EXAMPLE)(fetch.fetch)
app.command("follow", epilog=follow.EXAMPLE)(follow.follow)
app.command("list", epilog=installed.LIST_EXAMPLE)(installed.list_)
app.command("use", epilog=installed.USE_EXAMPLE)(installed.use)
app.command("pin", epilog=installed.PIN_EXAMPLE)(installed.pin)
app.command("verify", epilog=verify.EXAMPLE)(verify.verify)
app.command("reseed", epilog=reseed.EXAMPLE)(reseed.reseed)
app.command("revoke", epilog=revoke.EXAMPLE)(revoke.revoke)
app.command("gc", epilog=gc.EXAMPLE)(gc.gc)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.command("relay", epilog=relays.RELAY_EXAMPLE)(relays.relay)
app.command("demo", epilog="Example: randygpt demo")(demo.demo)
app.add_typer(keys.app, name="keys")
app.add_typer(relays.app, name="relays")
app.add_typer(trust.app, name="trust")
app.add_typer(config.app, name="config")


def _show_version(shown: bool) -> None:  # noqa: FBT001 (typer calls it)
    if shown:
        sys.stdout.write(f"randygpt {randygpt.__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_NSEC = re.compile("nsec1[a-z0-9]{50}", re.IGNORECASE)
_BUG = 1
_INTERRUPTED = 130
_TERMINATED = 143
_EXIT_CODES: tuple[tuple[int, tuple[type[BaseException], ...]], ...] = (
    (_INTERRUPTED, (KeyboardInterrupt, typer.Abort)),
    (2, (UsageError, CallerError)),
    (3, (PeerError,)),
    (4, (TransportError,)),
    (5, (StorageError,)),
)


def run(arguments: list[str]) -> int:
    """Carry out a command line; every error is one line on stderr. Returns the exit code."""
    terminations = handle_termination()
    try:
        with translate_os_errors():
            result = _main(normalise(arguments))
        code = result if isinstance(result, int) else 0
    except BaseException as error:
        code = exit_code(error)
        if code == _BUG:
            raise
        if code != _INTERRUPTED:
            print_stderr(_usage_words(error) if isinstance(error, UsageError) else f"randygpt: {_words(error)}")
    if code == _INTERRUPTED:  # typer makes an exit code of a Ctrl-C
        print_stderr("terminated" if terminations else "interrupted")
    return _TERMINATED if code == _INTERRUPTED and terminations else code


def _main(words: list[str]) -> object:
    """Have click carry out a command, with the settings beneath its flags; returns what click does."""
    if any(_NSEC.search(word) for word in words):
        raise CallerError(
            "a SECRET key (nsec) on the command line is seen by all who list processes, and kept in your shell's "
            "history: it is not taken from there; see randygpt keys import --help"
        )
    program: Any = typer.main.get_command(app)
    known = parameters(program)
    is_help = not words or words[0].startswith("-") or {"-h", "--help"} & {*_before_dashes(words)}
    settings = {} if is_help or words[0] == "config" else default_map(known)
    return program.main(words, prog_name="randygpt", standalone_mode=False, default_map=settings)


def _before_dashes(words: list[str]) -> list[str]:
    return words[: words.index("--")] if "--" in words else words


def exit_code(error: BaseException) -> int:
    """What an error means to a shell; 1 for one that nobody raised on purpose."""
    return next((code for code, kinds in _EXIT_CODES if isinstance(error, kinds)), _BUG)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _usage_words(error: Exception) -> str:
    words = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        return words
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    path = context.command_path if context else "randygpt"
    source = context.get_parameter_source(parameter.name) if context and parameter else None
    variable = f" {parameter.envvar}:" if parameter and source and source.name == "ENVIRONMENT" else ""
    return f"{path}:{variable} {' '.join(words.split())} (see {path} --help)"
