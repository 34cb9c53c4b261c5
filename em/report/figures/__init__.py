"""The report's figures. Each has its numbers in a CSV beside it."""
