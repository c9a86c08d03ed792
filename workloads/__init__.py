"""Training workloads, one file each: model, data, metric, target and hyperparameters."""
