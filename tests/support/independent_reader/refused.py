"""The error of a broken rule."""


class Refused(Exception):
    """Input that breaks a rule of the page."""


def need(holds: object, complaint: str) -> None:
    if not holds:
        raise Refused(complaint)
