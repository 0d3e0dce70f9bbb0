"""Looking through calls beside the way of data: what finds values, names and attacks, and who is asked about texts."""
