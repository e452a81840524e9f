"""Studies: one file is one study and one command. The contract is `softbench.contracts.study`."""
