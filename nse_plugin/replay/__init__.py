"""Run again only what an edit can change."""
