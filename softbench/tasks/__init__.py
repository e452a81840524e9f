"""Tasks: a file is one task to learn, and its name is the name. The contract is `softbench.contracts.task`."""
