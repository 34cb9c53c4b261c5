"""Judging: plan the judgements (`plan`), then make them in a child process (`local`) or by a server (`remote`)."""
