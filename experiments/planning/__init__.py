"""Plans: TOML files with written-out units, their mistakes all at once, and the trials that they make."""
