"""Output of `relays publish` and `servers publish`: a list that the user's key has on relays."""

from collections.abc import Sequence

from randygpt.cli.output import emit, print_stderr
from randygpt.own_lists import PublishedList


def show_published(
    published: PublishedList, key: str, *, not_public: Sequence[str], noun: str, as_json: bool, quiet: bool
) -> None:
    """Print a published list, and what was left out.

    Args:
        published: The list as relays have it now.
        key: Name of its entries in the JSON object.
        not_public: The user's own entries that were not published.
        noun: What a published entry is, such as "public wss relay".
        as_json: Print JSON.
        quiet: Print no notes.
    """
    if not quiet:
        for url in not_public:
            print_stderr(f"not published: {url} is not a {noun}")
        for report in published.relays.values():
            if report.reason:
                print_stderr(f"skipped relay: {report.reason}")
    relays = {url: {"has_list": each.in_use, "reason": each.reason} for url, each in published.relays.items()}
    result = {
        key: list(published.entries),
        "added": published.added,
        "not_public": list(not_public),
        "relays": relays,
    }
    emit(as_json, result, "\n".join(published.entries))
