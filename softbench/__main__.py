"""Entry point of the `softbench` command and of `python -m softbench`: errors become one line and an exit code.

Standard streams that whoever started us had closed lead nowhere, and what an encoding lacks is written as an escape: a
run ends for what it does, not for who listens.
"""

from __future__ import annotations

import io
import os
import sys
import threading

import click

from softbench.cli import _printing, cli
from softbench.errors import SoftbenchError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. 0 ok, 1 error, 2 usage, 5 some cases failed, 130 interrupted."""
    _prepare_streams()
    try:
        with _printing.own_stdout():
            _run(arguments)
    except SystemExit as stop:
        if arguments is None:  # the process is this command's own
            _leave_behind(stop.code if isinstance(stop.code, int) else 0)
        raise


def _run(arguments: list[str] | None) -> None:
    try:
        code = cli.main(arguments, prog_name="softbench", standalone_mode=False)
        _printing.stdout().flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        _printing.say(error.ctx.get_help() if error.ctx else error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "softbench"
        _fail(f"{error.format_message().rstrip('.')}. See '{path} --help'.", error.exit_code)
    except SoftbenchError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("Interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _forget_output()
        sys.exit(1)
    except OSError as error:
        if _printing.stdout().closed or error.filename is None:
            _forget_output()
            _fail(f"Cannot write the output: {error.strerror}.", 1)
        raise


def _prepare_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file to be opened would get its number, and be written into
            handle = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(handle, True)
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Let what stdout still holds go nowhere, so that Python does not fail on it once more at its end."""
    if not _printing.stdout().closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _printing.stdout().fileno())


def _leave_behind(code: int) -> None:
    """End this process now where a plugin has left a thread or a process running, for which Python would wait."""
    waited_for = [thread for thread in threading.enumerate() if not thread.daemon
                  and thread is not threading.main_thread()]
    processes = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
    if waited_for or processes:
        for process in processes:
            process.kill()
        sys.stderr.flush()
        os._exit(code)


def _fail(message: str, code: int) -> None:
    _printing.say("Error: " + " ".join(_printing.printable(message).split()))
    sys.exit(code)


if __name__ == "__main__":
    main()
