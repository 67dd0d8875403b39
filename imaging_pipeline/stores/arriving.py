"""Folders of files that are still coming in: nobody is to look into them."""

ARRIVING_PREFIX = ".tmp-receive-"


def is_arriving(folder: str) -> bool:
    """Whether a folder of this name holds files that are not finished."""
    return folder.startswith(ARRIVING_PREFIX)
