"""Bearer tokens."""

import pytest

from server.auth import find_key

KEY = "s3cret"


@pytest.mark.parametrize(
    ("api_key", "header", "allowed"),
    [
        (None, None, False),
        (None, "", False),
        (None, "Bearer ", False),
        (KEY, f"Bearer {KEY}", True),
        (KEY, f"bearer {KEY}", True),
        (KEY, f"BEARER {KEY}", True),
        (KEY, f"Bearer   {KEY} ", True),
        (KEY, None, False),
        (KEY, "", False),
        (KEY, "Bearer", False),
        (KEY, "Bearer ", False),
        (KEY, KEY, False),
        (KEY, f" {KEY}", False),
        (KEY, f"Bearer{KEY}", False),
        (KEY, f"Basic {KEY}", False),
        (KEY, f"Bearer: {KEY}", False),
        (KEY, f"Bearer {KEY.upper()}", False),
        (KEY, f"Bearer {KEY[:-1]}", False),
        (KEY, f"Bearer {KEY}x", False),
        (KEY, f"Bearer {KEY} {KEY}", False),
        (KEY, "Bearer \xfc", False),
        (KEY, "Bearer \udcff", False),
        (KEY, "Bearer \x00", False),
        ("schlüssel", "Bearer schlüssel", True),
        ("schlüssel", "Bearer schlussel", False),
        ("what?", "Bearer what?", True),
        ("what?", "Bearer what\udcff", False),
    ],
)
def test_bearer_token(*, api_key: str | None, header: str | None, allowed: bool) -> None:
    found = find_key([] if api_key is None else [api_key], header)
    assert (found is not None) is allowed
    assert found in {None, 0}
