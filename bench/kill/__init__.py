"""The same jobs and the same faults on each system: what becomes of the jobs, and what the systems say of them."""
