"""What is told of a call: one access record, and metrics. Never a word of its text, a key or a credential."""
