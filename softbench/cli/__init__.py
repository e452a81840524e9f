"""The command line: click commands that parse, call one function, and print. Data to stdout, all else to stderr.

A verb is a file: `list.py` is `softbench list`, `train_imagenet.py` is `softbench train-imagenet`, and its command is
the function `<file>_command`. What several share stands in files with an underscore.
"""

from softbench.cli._verbs import cli

__all__ = ["cli"]
