"""What every other package stands on: errors, files, random numbers, the terminal, the run's configuration."""
