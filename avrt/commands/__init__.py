"""Commands other than Lightning's own, one module each."""
