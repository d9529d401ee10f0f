"""Results of experiments as tables, figures and pages."""
