"""`perfsuite ops bench`: every implementation of an op against all that a user would pick instead, on this machine."""
