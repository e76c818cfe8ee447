"""One folder per clinical task: a series becomes findings."""
