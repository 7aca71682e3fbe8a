"""What compaction knows about each operation: one rule a kind."""
