"""What the gateway tells of itself as messages of OTLP.

Imported only where traces or logs are configured: a start need not pay for what it does not use.
"""
