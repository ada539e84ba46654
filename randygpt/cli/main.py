"""The `randygpt` command: registers the subcommands and turns errors into exit codes.

Exit codes: 0 success · 1 bug · 2 usage error, invalid local input, or above a limit of the user ·
3 not trusted, or verification failed · 4 unreachable or incomplete (run again to resume) · 5 local disk or store ·
130 interrupted · 143 terminated.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

import randygpt
from randygpt.cli import (
    bunker,
    config,
    demo,
    evaluate,
    export,
    fetch,
    follow,
    forks,
    gc,
    generate,
    help_page,
    installed,
    keys,
    log,
    merge,
    plot,
    profile,
    publish,
    relay,
    relays,
    remove,
    reseed,
    revoke,
    search,
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
from randygpt.cli.usage import Command, Group, UsageError, describe_usage_error
from randygpt.errors import CallerError, PeerError, StorageError, TransportError, translate_os_errors

app = typer.Typer(
    cls=Group,
    name="randygpt",
    help="Train a small GPT, publish it as signed nostr events, fetch it by its event id, and serve it.",
    epilog="To see all of it at work: randygpt demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_PANELS: Mapping[str, Sequence[tuple[str, Callable[..., None], str]]] = {
    "Train and use": (
        ("train", train.train, train.EXAMPLE),
        ("generate", generate.generate, generate.EXAMPLE),
        ("eval", evaluate.evaluate, evaluate.EXAMPLE),
        ("merge", merge.merge, merge.EXAMPLE),
        ("serve", serve.serve, serve.EXAMPLE),
        ("show", show.show, show.EXAMPLE),
        ("plot", plot.plot, plot.EXAMPLE),
        ("export", export.export, export.EXPORT_EXAMPLE),
        ("import", export.import_model, export.IMPORT_EXAMPLE),
    ),
    "Share": (
        ("publish", publish.publish, publish.EXAMPLE),
        ("fetch", fetch.fetch, fetch.EXAMPLE),
        ("search", search.search, search.EXAMPLE),
        ("follow", follow.follow, follow.EXAMPLE),
        ("log", log.log, log.EXAMPLE),
        ("forks", forks.forks, forks.EXAMPLE),
        ("reseed", reseed.reseed, reseed.EXAMPLE),
        ("revoke", revoke.revoke, revoke.EXAMPLE),
    ),
    "Installed releases": (
        ("list", installed.list_, installed.LIST_EXAMPLE),
        ("use", installed.use, installed.USE_EXAMPLE),
        ("pin", installed.pin, installed.PIN_EXAMPLE),
        ("verify", verify.verify, verify.EXAMPLE),
        ("remove", remove.remove, remove.EXAMPLE),
        ("gc", gc.gc, gc.EXAMPLE),
    ),
    "More": (
        ("relay", relay.relay, relay.EXAMPLE),
        ("demo", demo.demo, "Example: randygpt demo"),
        ("help", help_page.help_, help_page.EXAMPLE),
    ),
}
for panel, commands in _PANELS.items():
    for name, function, example in commands:
        app.command(name, epilog=example, rich_help_panel=panel)(function)
_GROUPS = {
    "keys": keys.app,
    "trust": trust.app,
    "relays": relays.app,
    "servers": servers.app,
    "config": config.app,
}
keys.app.command("profile", epilog=profile.EXAMPLE)(profile.profile)
keys.app.command("bunker", epilog=bunker.BUNKER_EXAMPLE)(bunker.bunker)
keys.app.command("connect", epilog=bunker.CONNECT_EXAMPLE)(bunker.connect)
for name, group in _GROUPS.items():
    app.add_typer(group, name=name, rich_help_panel="Keys, relays and settings")
for group in (app, *_GROUPS.values()):
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
    settings = {} if is_help or arguments[0] in {"config", "help"} else default_map(known)
    return program.main(arguments, prog_name="randygpt", standalone_mode=False, default_map=settings)


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error; 1 for an unexpected one."""
    return next((code for code, kinds in _EXIT_CODES if isinstance(error, kinds)), _BUG)


def _describe(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
