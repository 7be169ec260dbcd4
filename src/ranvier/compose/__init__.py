"""The one place where objects are wired. Submodules are imported where they are needed: each process needs few."""
