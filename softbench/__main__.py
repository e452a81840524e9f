"""Entry point of the `softbench` command and of `python -m softbench`: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys

import click

from softbench.errors import SoftbenchError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. 0 ok, 1 error, 2 usage, 5 some cases failed, 130 interrupted."""
    from softbench.cli import cli

    try:
        code = cli.main(arguments, prog_name="softbench", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else error.format_message(), file=sys.stderr)
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
        if sys.stdout.closed or error.filename is None:
            _forget_output()
            _fail(f"Cannot write the output: {error.strerror}.", 1)
        raise


def _forget_output() -> None:
    """Let what stdout still holds go nowhere, so that Python does not fail on it once more at its end."""
    if not sys.stdout.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    plain = "".join(c if c.isprintable() else " " for c in message)  # file names may hold what a terminal obeys
    print("Error: " + " ".join(plain.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
