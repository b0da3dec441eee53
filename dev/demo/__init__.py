"""What `make run` has of each feature: one module per feature, which defines `DEMO`."""
