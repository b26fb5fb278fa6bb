"""From raw archives to shards, and from shards to batches."""
