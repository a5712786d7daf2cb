"""Standard output and standard error, which may be closed, full or in any encoding."""

import sys
from contextlib import suppress


def print_text(text: str) -> bool:
    """Print a text. Returns False, and says why, if it cannot be written; a reader that has left is no failure."""
    # As Python has it when its parent has closed it.
    if sys.stdout is None:
        return True
    try:
        printable = text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)
        print(printable, flush=True)  # noqa: T201  The output of the command. So too below.
    except OSError as error:
        # It still has what it could not write, and would try again at the end of the process.
        with suppress(OSError):
            sys.stdout.close()
        if isinstance(error, BrokenPipeError):
            return True
        print_errors(f"the output cannot be written: {error.strerror}")
        return False
    return True


def print_errors(*lines: str) -> None:
    """Print lines to standard error. If they cannot be written, ignore that and go on."""
    # As Python has it when its parent has closed it. print() would use standard output instead.
    if sys.stderr is None:
        return
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        # It still has what it could not write, and would try again at the end of the process.
        with suppress(OSError):
            sys.stderr.close()
        sys.stderr = None
