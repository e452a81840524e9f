"""The former place of `softbench.contracts.study`, kept for one version: files of others import it."""

from softbench.contracts.study import *  # noqa: F403
from softbench.contracts.study import Finding as Observation  # noqa: F401
