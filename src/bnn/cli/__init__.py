"""The command `bnn`. Each subcommand parses, calls what the library offers, and prints.

Nothing here imports torch but `train` and `study`, inside their functions: the rest runs without.
"""

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from bnn.cli.text import complain, reason
from bnn.errors import MissingExtraError, UserError, first_lines, is_out_of_memory

__all__ = ["entry", "main"]


def entry() -> NoReturn:
    """The command as a process: `main`, and no traceback however often Ctrl-C is pressed."""
    interrupts = _Interrupts()
    status = 130
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # no script's `bnn ... &`
            signal.signal(signal.SIGINT, interrupts)
        status = main()
    except KeyboardInterrupt:
        pass
    except Exception:
        if interrupts.first is None:
            raise
        complain("bnn: interrupted")  # an import that is interrupted may raise anything
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said; PyTorch takes a while to end
    sys.exit(status if interrupts.first is None else 130)


class _Interrupts:
    """The first Ctrl-C raises KeyboardInterrupt. Those of the next second are taken for the same one, which
    may come by several ways; a later one ends the process at once, whatever the first is waiting for."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, *_: object) -> None:
        if self.first is None:
            self.first = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.first > 1:
            os._exit(130)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 failed, 2 the user's mistake, 130 Ctrl-C."""
    command = "bnn"
    try:
        from bnn.cli.options import make_parser  # numpy and all: only now is Ctrl-C minded

        options = make_parser().parse_args(argv)
        command += f" {options.command}"
        with _warnings_as_lines(command):
            status: int = options.run(options)
        sys.stdout.flush()  # a closed pipe shows here, not at exit
        return status
    except KeyboardInterrupt:
        gc.freeze()  # or Python, at its end, looks at all that libraries made: a second on a busy machine
        complain("")  # below ^C
        complain(f"{command}: interrupted")
        return 130
    except BrokenPipeError:  # `bnn info ... | head`
        sys.stderr.close()
        return 1
    except (UserError, MissingExtraError, OSError, UnicodeEncodeError) as error:  # the last by `print`
        complain(f"{command}: {reason(error)}")
        return 2
    except Exception as error:
        if not is_out_of_memory(error):
            raise  # a fault of ours
        complain(f"{command}: not enough memory: {first_lines(error)[:200]}")
        return 2


@contextmanager
def _warnings_as_lines(command: str) -> Iterator[None]:
    def show(message: Warning | str, *where: Any) -> None:
        complain(f"{command}: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
