"""What the bytes of each API mean: requests, answers, event streams. Pure functions over bytes."""
