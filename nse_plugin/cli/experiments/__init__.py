"""Commands that compare, sweep, tune and measure."""
