"""How much a call uses: token estimates, and later prices."""
