"""Command line and supervision of processes."""
