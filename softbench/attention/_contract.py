"""The former place of `softbench.contracts.attention`, kept for one version: files of others import it."""

from softbench.contracts.attention import *  # noqa: F403
