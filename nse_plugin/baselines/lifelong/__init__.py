"""AlphaEdit, WISE and UltraEdit from EasyEdit's main, each with its own memory."""
