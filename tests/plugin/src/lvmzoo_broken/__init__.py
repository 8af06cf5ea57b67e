"""A plugin that fails as real ones do: something that it needs is not installed."""

import a_package_that_is_not_installed  # noqa: F401
