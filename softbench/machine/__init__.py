"""The machine: what it is, and how much of it this process may have."""
