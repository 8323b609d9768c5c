"""The minimal agent: a linear conversation with one command per turn, in a new subshell."""
