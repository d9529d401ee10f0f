"""An edit as a file that holds exactly the changed columns, and its exports for other programs."""
