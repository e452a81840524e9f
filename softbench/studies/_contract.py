"""The former place of `softbench.contracts.study`, kept for one version: files of others import it."""

from softbench.contracts.study import *  # noqa: F403
