"""Which llama.cpp KV-cache type can a coding agent live with, and what does it cost?"""

__version__ = "0.2.0"
