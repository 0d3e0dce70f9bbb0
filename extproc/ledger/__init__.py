"""What waits on the usage bus becomes rows of the database, once each. See docs/decisions/0026-ledger.md."""
