"""Plugins of another package: one measure, one study and one task."""
