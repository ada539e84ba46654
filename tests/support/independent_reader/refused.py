"""What every rule on the page ends with where it is broken."""


class Refused(Exception):
    """What came is not what the page allows."""


def need(holds: object, complaint: str) -> None:
    if not holds:
        raise Refused(complaint)
