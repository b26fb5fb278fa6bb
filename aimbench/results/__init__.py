"""Records, tables and published numbers: reads records alone and never imports torch."""
