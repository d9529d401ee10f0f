"""AlphaEdit, WISE and UltraEdit as EasyEdit's main has them, each with a memory of its own."""
