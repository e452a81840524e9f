"""Attentions: a file is one attention, and its name is the name. The contract is `softbench.contracts.attention`."""
