"""Hot training operations, one file each: formula, reference, cost, cases, implementations."""
