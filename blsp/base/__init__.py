"""What every program stands on: whole files, one-line errors, long jobs that continue, YAML."""
