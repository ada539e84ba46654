"""`randygpt demo`."""


def demo() -> None:
    """Show the whole path."""
