"""Lists, compares and removes runs, and writes their event files for TensorBoard."""
