"""Who may ask: the bearer token in a request's headers. No I/O."""

import hmac


def is_authorised(api_key: str | None, raw_authorization: str | None) -> bool:
    """Whether an Authorization header carries the key; without a key, everybody may ask. Takes the same time always."""
    if api_key is None:
        return True
    scheme, _, token = (raw_authorization or "").partition(" ")
    same = hmac.compare_digest(token.strip().encode("utf-8", "surrogatepass"), api_key.encode("utf-8", "surrogatepass"))
    return same and scheme.lower() == "bearer"
