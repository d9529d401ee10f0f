"""The method of the paper (NSE, arXiv 2410.04045), one equation per file."""
