"""AlphaEdit, WISE and UltraEdit of EasyEdit's main, each with its own memory."""
