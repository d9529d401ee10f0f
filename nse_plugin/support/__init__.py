"""General helpers: files, forward passes, progress, messages, timing, memory."""
