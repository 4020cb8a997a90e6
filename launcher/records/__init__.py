"""What is kept of runs on disk: run directories, what containers told, ends, and leases on folders."""
