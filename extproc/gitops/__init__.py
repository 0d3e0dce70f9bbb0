"""Teams as files: what they declare, what that changes, and how it is carried out."""
