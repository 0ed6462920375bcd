"""Find out which fine-tune is actually better."""

__version__ = "0.1.0"
