"""Pure functions on tensors: filters, smoothers, solvers."""
