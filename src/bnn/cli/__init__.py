"""The command `bnn`. Each subcommand parses, calls what the library offers, and prints.

Nothing here imports torch but `train` and `study`, inside their functions: the rest runs without.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bnn.cli.options import make_parser
from bnn.cli.text import complain, reason
from bnn.errors import MissingExtraError, UserError, first_lines, is_out_of_memory

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
    except (UserError, MissingExtraError, OSError, UnicodeEncodeError) as error:  # the last by `print`
        complain(f"bnn {options.command}: {reason(error)}")
        return 2
    except Exception as error:
        if not is_out_of_memory(error):
            raise  # a fault of ours
        complain(f"bnn {options.command}: not enough memory: {first_lines(error)[:200]}")
        return 2


@contextmanager
def _warnings_as_lines(command: str) -> Iterator[None]:
    def show(message: Warning | str, *where: Any) -> None:
        complain(f"bnn {command}: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
