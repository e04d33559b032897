"""The tasks that come with the package, a file a suite."""
