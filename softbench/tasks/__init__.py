"""Tasks: a file or folder is one task to learn, its name is the name, and `softbench.contracts.task` the contract."""
