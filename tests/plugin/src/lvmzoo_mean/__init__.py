"""A plugin for lvmzoo."""
