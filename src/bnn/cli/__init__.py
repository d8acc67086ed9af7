"""The command `bnn`. Each subcommand parses, calls what the library offers, and prints.

Nothing here imports torch but `train` and `study`, inside their functions: the rest runs without.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bnn.cli.options import make_parser
from bnn.cli.text import complain
from bnn.errors import MissingExtraError, UserError, first_lines, is_out_of_memory, printable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 failed, 2 the user's mistake, 130 Ctrl-C."""
    options = make_parser().parse_args(argv)
    try:
        with _warnings_as_lines(options.command):
            status: int = options.run(options)
        sys.stdout.flush()  # a closed pipe shows here, not at exit
        return status
    except KeyboardInterrupt:
        complain("")  # below ^C
        complain(f"bnn {options.command}: interrupted")
        return 130
    except BrokenPipeError:  # `bnn info ... | head`
        sys.stderr.close()
        return 1
    except (UserError, MissingExtraError, UnicodeEncodeError) as error:  # the last of them: by `print`
        return _complain(options.command, str(error))
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        return _complain(options.command, f"{where}{error.strerror or error}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise  # a fault of ours
        return _complain(options.command, f"not enough memory: {first_lines(error)[:200]}")


@contextmanager
def _warnings_as_lines(command: str) -> Iterator[None]:
    def show(message: Warning | str, *where: Any) -> None:
        complain(f"bnn {command}: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _complain(command: str, message: str) -> int:
    complain(f"bnn {command}: {' '.join(message.split())}")
    return 2
