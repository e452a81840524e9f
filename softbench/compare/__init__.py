"""Comparing: two sets of records become one verdict a case, by a rule that docs/regression.md derives."""
