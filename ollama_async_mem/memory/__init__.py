"""The memory: adds, ranking and extraction over ports, records and errors only."""
