"""Who calls: keys, roles, the directory of teams and people, and what a verified token says. Pure; no I/O."""
