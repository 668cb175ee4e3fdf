"""The benchmark: launch_worker beside its peers and beside the limit of the machine. See README.md."""
