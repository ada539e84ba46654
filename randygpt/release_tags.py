"""Tags of a release event by which programs find and show a model: title, summary, license, topics. No I/O."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from randygpt.errors import CallerError
from relay_client.errors import quote
from relay_client.event import Tags

MAX_TOPICS = 10
MAX_TOPIC = 40  # characters
_MAX_SUMMARY = 280  # characters
_MAX_LICENSE = 64  # characters; a longer text is no name of a license
_ALWAYS = ("randygpt", "ai-model")  # topics that every release has
_TOPIC = re.compile(rf"\w[\w-]{{0,{MAX_TOPIC - 1}}}")


def release_tags(name: str, card: Mapping[str, object], topics: Iterable[str] = ()) -> Tags:
    """Return the tags that describe a release to other programs (names as in NIP-23 and NIP-99).

    Args:
        name: Name of the model.
        card: Its card; `about` becomes the summary, `license` the license.
        topics: Topics as `parse_topics` returns them.
    """
    about, license_ = _line(card.get("about")), _line(card.get("license"))
    if len(about) > _MAX_SUMMARY:
        about = about[: _MAX_SUMMARY - 1].rstrip() + "…"
    return (
        ("title", name),
        *((("summary", about),) if about else ()),
        *((("license", license_),) if 0 < len(license_) <= _MAX_LICENSE else ()),
        *(("t", topic) for topic in topics),
    )


def parse_topics(raw_topics: Sequence[str]) -> tuple[str, ...]:
    """Return topics as relays index them: in lower case, without `#`, each once.

    Raises:
        CallerError: A topic has other characters than letters, digits, dash and underscore, or there are too many.
    """
    topics: dict[str, None] = {}
    for raw_topic in raw_topics:
        topic = unicodedata.normalize("NFC", raw_topic.removeprefix("#").lower())
        if not _TOPIC.fullmatch(topic):
            raise CallerError(
                f"{quote(raw_topic)} is not a topic: letters, digits, dash and underscore, at most {MAX_TOPIC}"
            )
        topics[topic] = None
    found = tuple(topic for topic in topics if topic not in _ALWAYS)
    if len(found) > MAX_TOPICS:
        raise CallerError(f"{len(found)} topics: pass --tag at most {MAX_TOPICS} times")
    return found


def _line(value: object) -> str:
    """Return a text of a card on one line; empty for anything else."""
    return " ".join(value.split()) if isinstance(value, str) else ""
