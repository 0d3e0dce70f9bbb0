"""Rules about what may be asked and answered: structure, attempts to talk a model out of its instructions, content."""
