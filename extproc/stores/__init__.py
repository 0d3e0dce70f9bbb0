"""Where state lives, behind small ports. `memory` is the specification; every other store must agree with it."""
