"""Attentions: one file is one attention, and its file name is its name. The contract is `softbench.contracts.attention`."""
