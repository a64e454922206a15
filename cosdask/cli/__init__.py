"""The command line: one file a verb; flags to a ``Config``; errors to exit codes."""
