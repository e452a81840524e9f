"""Contracts: what an attention, a measure and a study must keep, and what a third party imports."""
