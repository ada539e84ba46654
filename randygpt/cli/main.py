"""The `randygpt` command: registers the subcommands and turns errors into exit codes.

Exit codes: 0 success · 1 bug · 2 usage error or invalid local input · 3 not trusted, or verification failed ·
4 unreachable or incomplete (run again to resume) · 5 local disk or store · 130 interrupted · 143 terminated.
"""

import functools
import re
from typing import Annotated, Any

import typer

import randygpt
from randygpt.cli import (
    config,
    demo,
    evaluate,
    export,
    fetch,
    follow,
    gc,
    generate,
    installed,
    keys,
    plot,
    publish,
    relay,
    relays,
    reseed,
    revoke,
    serve,
    servers,
    show,
    train,
    trust,
    verify,
)
from randygpt.cli.output import print_stderr, write
from randygpt.cli.rust_compat import normalise
from randygpt.cli.settings import default_map, parameters
from randygpt.cli.signals import handle_termination
from randygpt.cli.usage import Command, UsageError, describe_usage_error
from randygpt.errors import CallerError, PeerError, StorageError, TransportError, translate_os_errors

app = typer.Typer(
    name="randygpt",
    help="Train a small GPT, publish it as signed nostr events, fetch it by its event id, and serve it.",
    epilog="To see all of it at work: randygpt demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("eval", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
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
app.command("relay", epilog=relay.EXAMPLE)(relay.relay)
app.command("demo", epilog="Example: randygpt demo")(demo.demo)
app.add_typer(keys.app, name="keys")
app.add_typer(relays.app, name="relays")
app.add_typer(servers.app, name="servers")
app.add_typer(trust.app, name="trust")
app.add_typer(config.app, name="config")
for group in (app, keys.app, relays.app, servers.app, trust.app, config.app):
    for registered in group.registered_commands:
        registered.cls = Command


def _show_version(shown: bool) -> None:  # noqa: FBT001 (typer calls it)
    if shown:
        write(f"randygpt {randygpt.__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
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
    """Run a command line, report an error as one line on stderr, and return the exit code."""
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
            print_stderr(
                describe_usage_error(error) if isinstance(error, UsageError) else f"randygpt: {_describe(error)}"
            )
    if code == _INTERRUPTED:  # typer returns this code after Ctrl-C
        print_stderr("terminated" if terminations else "interrupted")
    return _TERMINATED if code == _INTERRUPTED and terminations else code


@functools.cache
def _program() -> Any:  # noqa: ANN401 (typer's own click has no types)
    """Return the tree of all commands."""
    return typer.main.get_command(app)


def _main(arguments: list[str]) -> object:
    """Run a command with the settings files as defaults of its flags; returns what the command returns."""
    if any(_NSEC.search(word) for word in arguments):
        raise CallerError(
            "SECRET key (nsec) on the command line refused: other users can see it in the process list, and your shell "
            "keeps it in its history; see randygpt keys import --help"
        )
    program = _program()
    known = parameters(program)
    is_help = not arguments or arguments[0].startswith("-") or {"-h", "--help"} & {*_before_double_dash(arguments)}
    settings = {} if is_help or arguments[0] == "config" else default_map(known)
    return program.main(arguments, prog_name="randygpt", standalone_mode=False, default_map=settings)


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error; 1 for an unexpected one."""
    return next((code for code, kinds in _EXIT_CODES if isinstance(error, kinds)), _BUG)


def _describe(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
