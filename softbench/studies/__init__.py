"""Studies: one file is one study and one command. The contract is in `_contract.py`."""
