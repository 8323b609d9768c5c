"""The minimal agent: a linear conversation, one command a turn, a fresh subshell."""
