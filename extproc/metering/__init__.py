"""How much a call uses: token estimates, and prices."""
