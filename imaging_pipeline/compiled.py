"""Plain loops as machine code, kept on disk where there is a place for it."""

from collections.abc import Callable
from typing import Any


def compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """A function that numba compiles when it is first called; it runs beside other threads."""
    import numba  # half a second, for those that need it alone

    try:
        function: Any = numba.njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # neither the package's folder nor the user's home can be written to
        function = numba.njit(nogil=True)(loop)
    return function  # type: ignore[no-any-return]
