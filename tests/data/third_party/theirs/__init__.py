"""Plugins of another package: one measure and one study."""
