"""MLPerf Training rules: logs, scores and, later, their checks."""
