"""Processes: how a process that measures is set up, started, bounded and ended."""
