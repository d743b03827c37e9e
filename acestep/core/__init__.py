"""What every part shares: errors, events, jobs, configuration, files, registry, logs, paths."""
