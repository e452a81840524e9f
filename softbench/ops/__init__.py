"""Numerical primitives: a public signature, its oracle and its fast implementations live side by side in one folder."""
