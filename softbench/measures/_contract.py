"""The former place of `softbench.contracts.measure`, kept for one version: files of others import it."""

from softbench.contracts.measure import *  # noqa: F403
