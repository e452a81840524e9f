"""Measures: one file is one measure and one command. The contract is `softbench.contracts.measure`."""
