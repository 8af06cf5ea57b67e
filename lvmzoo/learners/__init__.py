"""The Lightning modules, one for each way of fitting."""
