"""What experiments found, as tables, figures and pages."""
